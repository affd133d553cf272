FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Queries are checked against .sqlx/, no database is needed. The binary leaves the cache mount, which is not kept.
ENV SQLX_OFFLINE=true
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin user-events-worker \
    && cp target/release/user-events-worker /user-events-worker

FROM debian:12.12-slim
# What librdkafka is linked to, and the public CAs.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin worker
COPY --from=build /user-events-worker /usr/local/bin/
USER 10001
EXPOSE 9464
ENTRYPOINT ["user-events-worker"]
CMD ["run"]
