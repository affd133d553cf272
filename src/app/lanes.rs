//! How many lanes suit the distance to Postgres.
//!
//! A batch keeps Postgres busy for a while and is under way for the rest. The farther away Postgres
//! is, the more batches it takes so that about two are always being worked on.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tracing::info;

use super::Work;
use crate::apply::{Session, SessionOptions};
use crate::config::Lanes;

/// Round trips of one batch: BEGIN, lock, fence, ledger, users, COMMIT.
const TRIPS: f64 = 6.0;
/// Without a statement cache the four in the middle are prepared each time, a round trip more.
const TRIPS_UNCACHED: f64 = 10.0;
/// What a full batch takes in Postgres, as measured on 2 cores.
const BATCH: Duration = Duration::from_millis(60);
/// Batches that Postgres is to work on at a time: it would idle while a single one gathers.
const FEWEST: usize = 2;
/// Each lane costs memory and a connection, however far away Postgres is.
const MOST: usize = 8;
/// The least of a few tries is the distance; what the others take beyond it is chance.
const TRIES: usize = 5;

impl Work {
    /// As many lanes as configured, or as suit the distance.
    pub(super) async fn lanes(&self) -> anyhow::Result<usize> {
        match self.config.batch.lanes {
            Lanes::Fixed(lanes) => Ok(lanes),
            Lanes::Auto => {
                let round_trip =
                    round_trip(&self.session).await.context("measuring the way to postgres")?;
                let trips = if self.session.statement_cache { TRIPS } else { TRIPS_UNCACHED };
                let lanes = lanes_for(round_trip, trips);
                info!(?round_trip, lanes, "as many lanes as suit the distance to postgres");
                Ok(lanes)
            }
        }
    }
}

fn lanes_for(round_trip: Duration, trips: f64) -> usize {
    let under_way = trips * round_trip.as_secs_f64() / BATCH.as_secs_f64();
    let lanes = FEWEST as f64 * (1.0 + under_way);
    (lanes.round() as usize).clamp(FEWEST, MOST)
}

/// How long Postgres takes to answer what is no work, over a connection for the moment only.
async fn round_trip(options: &SessionOptions) -> sqlx::Result<Duration> {
    let mut session = Session::new(options.clone());
    // In one transaction: a pooler keeps to one server, and what is measured is the way to that.
    let conn = session.begin().await?;
    let mut least = Duration::MAX;
    for _ in 0..TRIES {
        let asked = Instant::now();
        sqlx::raw_sql("SELECT 1").execute(&mut *conn).await?;
        least = least.min(asked.elapsed());
    }
    session.commit().await?;
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farther_postgres_is_the_more_lanes_there_are_within_bounds() {
        for (millis, lanes) in
            [(0, 2), (1, 2), (2, 2), (5, 3), (10, 4), (20, 6), (30, 8), (50, 8), (60_000, 8)]
        {
            assert_eq!(lanes_for(Duration::from_millis(millis), TRIPS), lanes, "{millis} ms");
        }
        assert_eq!(lanes_for(Duration::from_millis(5), TRIPS_UNCACHED), 4);
        assert_eq!(lanes_for(Duration::MAX, TRIPS), 8);
    }
}
