//! Logs to stderr, and traces over OTLP when the standard `OTEL_*` variables ask for them.

use std::io::{self, IsTerminal};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter as OtlpExporter, WithExportConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::{error, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::batch_span;
use super::rate_limit::LogGate;
use crate::config::{LogConfig, LogFormat};

const SERVICE_NAME: &str = "user-events-worker";
/// Libraries that say too much for an operator. What they mean for us, we say ourselves; whoever
/// names them in `log.level` hears them again.
const QUIET: &str = "sqlx=warn,rdkafka=error,librdkafka=error,hyper=warn,hyper_util=warn,\
                     reqwest=warn,opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry-otlp=warn";

/// Why logs or traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.level` is not in `EnvFilter`'s syntax.
    #[error("log.level is not a level or a list of directives")]
    Level(#[from] ParseError),
    /// Something else has set up logging in this process.
    #[error("logging is set up already")]
    Twice(#[from] TryInitError),
    /// The OTLP protocol asked for is not in this binary.
    #[error(
        "{variable}={value} is not built in: use http/protobuf, which collectors serve on port 4318"
    )]
    Protocol {
        /// The variable that asks for it.
        variable: &'static str,
        /// What it asks for.
        value: String,
    },
    /// TLS to the collector is not in this binary.
    #[error("{variable} asks for https, which is not built in: send to a collector nearby by http")]
    Tls {
        /// The variable that asks for it.
        variable: &'static str,
    },
    /// The exporter refused its configuration.
    #[error("cannot export traces")]
    Exporter(#[from] ExporterBuildError),
}

/// Keeps telemetry going; [`Telemetry::shutdown`] sends what is left.
#[must_use = "dropping it ends tracing"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends the spans not sent yet, for at most `timeout`. Blocks: call it when the runtime is
    /// done, or on a thread that may wait.
    pub fn shutdown(self, timeout: Duration) -> OTelSdkResult {
        match self.provider.map(|provider| provider.shutdown_with_timeout(timeout)) {
            None | Some(Err(OTelSdkError::AlreadyShutdown)) => Ok(()),
            Some(result) => result,
        }
    }
}

/// Sets up logs for the whole process, and traces when the environment asks for them. Once, early in
/// `main`: before the runtime, because the exporter's client is a blocking one.
pub fn init(config: &LogConfig) -> Result<Telemetry, TelemetryError> {
    init_logs(config)?;
    log_panics();
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if !traces_wanted(&env)? {
        return Ok(Telemetry { provider: None });
    }
    let exporter =
        OtlpExporter::builder().with_http().with_protocol(Protocol::HttpBinary).build()?;
    let provider = provider(exporter);
    batch_span::enable(provider.tracer(SERVICE_NAME));
    Ok(Telemetry { provider: Some(provider) })
}

/// Sends spans in the background. The sampler is the SDK's to choose, by OTEL_TRACES_SAMPLER.
fn provider(exporter: OtlpExporter) -> SdkTracerProvider {
    let exporter = Announced { exporter, log: LogGate::new(Duration::from_secs(60)) };
    SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build()
}

/// Says when spans do not arrive, now and then. (The SDK would, too, by its `internal-logs`, every
/// time.)
#[derive(Debug)]
struct Announced {
    exporter: OtlpExporter,
    log: LogGate,
}

impl SpanExporter for Announced {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        if let Err(error) = &result
            && let Some(suppressed) = self.log.pass("export")
        {
            warn!(%error, spans, suppressed, "spans could not be exported, and are lost");
        }
        result
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Panics become log lines like any other, and no flood: one bad record may cause one each (see
/// `consume::record`), and a topic may be full of them.
fn log_panics() {
    let log = LogGate::new(Duration::from_secs(10));
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if let Some(suppressed) = log.pass(&place) {
            let reason = panic.payload_as_str().unwrap_or_default();
            error!(place, reason, suppressed, "panicked");
        }
    }));
}

fn init_logs(config: &LogConfig) -> Result<(), TelemetryError> {
    let terminal = io::stderr().is_terminal();
    let text = match config.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter(&config.level)?)
        .with_writer(io::stderr)
        .with_ansi(terminal);
    if text {
        logs.finish().try_init()?;
    } else {
        let logs = logs.json().flatten_event(true).with_current_span(false).with_span_list(false);
        logs.finish().try_init()?;
    }
    Ok(())
}

/// The operator's directives come last: of two for one library the last counts.
fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("{QUIET},{level}"))
}

/// Whether the environment asks for traces; an error when it asks for what this binary lacks.
fn traces_wanted(env: &impl Fn(&str) -> Option<String>) -> Result<bool, TelemetryError> {
    const ENDPOINTS: [&str; 2] =
        ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    const PROTOCOLS: [&str; 2] =
        ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    // The first that is set counts: the one for traces before the general one.
    let first = |names: [&'static str; 2]| names.into_iter().find_map(|n| Some((n, env(n)?)));

    let disabled = env("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let none = env("OTEL_TRACES_EXPORTER").is_some_and(|v| v.eq_ignore_ascii_case("none"));
    let Some((variable, endpoint)) = first(ENDPOINTS).filter(|_| !disabled && !none) else {
        return Ok(false);
    };
    if endpoint.trim_start().get(..6).is_some_and(|s| s.eq_ignore_ascii_case("https:")) {
        return Err(TelemetryError::Tls { variable });
    }
    match first(PROTOCOLS) {
        Some((variable, value)) if value != "http/protobuf" => {
            Err(TelemetryError::Protocol { variable, value })
        }
        _ => Ok(true),
    }
}

/// Who the spans are from: the environment's word, else our own name.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&"service.name".into()).map(|name| name.to_string());
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let mut builder = Resource::builder();
    if name.is_none_or(|name| name.is_empty() || name.starts_with("unknown_service")) {
        builder = builder.with_service_name(SERVICE_NAME);
    }
    if detected.get(&version.key).is_none() {
        builder = builder.with_attribute(version);
    }
    builder.build()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use opentelemetry::trace::Tracer;

    use super::*;

    fn wanted(variables: &[(&str, &str)]) -> Result<bool, String> {
        let env = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        traces_wanted(&env).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_decides_about_traces() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        let for_traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318/v1/traces");
        assert_eq!(wanted(&[]), Ok(false));
        assert_eq!(wanted(&[endpoint]), Ok(true));
        assert_eq!(wanted(&[for_traces]), Ok(true));
        assert_eq!(wanted(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]), Ok(false));
        assert_eq!(wanted(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), Ok(false));
        assert_eq!(wanted(&[endpoint, ("OTEL_TRACES_EXPORTER", "otlp")]), Ok(true));
    }

    #[test]
    fn what_is_not_built_in_is_said() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let error = wanted(&[endpoint, protocol]).unwrap_err();
        assert!(error.contains("OTEL_EXPORTER_OTLP_PROTOCOL=grpc"), "{error}");
        assert!(error.contains("http/protobuf"), "{error}");
        // The protocol for traces counts before the general one.
        let for_traces = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf");
        assert_eq!(wanted(&[endpoint, protocol, for_traces]), Ok(true));
        // Nothing is wrong with a protocol nobody uses.
        assert_eq!(wanted(&[protocol]), Ok(false));
        let https = ("OTEL_EXPORTER_OTLP_ENDPOINT", "HTTPS://collector:4318");
        assert!(wanted(&[https]).unwrap_err().contains("asks for https"));
    }

    #[test]
    fn libraries_are_quiet_unless_asked_for() {
        assert!(filter("info").unwrap().to_string().contains("sqlx=warn"));
        let loud = filter("info,sqlx=debug").unwrap().to_string();
        assert!(loud.contains("sqlx=debug") && !loud.contains("sqlx=warn"), "{loud}");
        assert!(filter("a=b=c").is_err());
    }

    #[test]
    fn spans_carry_our_name() {
        let resource = resource();
        assert_eq!(resource.get(&"service.name".into()), Some(SERVICE_NAME.into()));
        assert!(resource.get(&"service.version".into()).is_some());
    }

    /// One request of a collector's client: the head, then a body of the length it gives.
    fn serve_one(listener: &TcpListener) -> (String, Vec<u8>) {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0);
        }
        let length = head.to_lowercase().split_once("content-length: ").unwrap().1.to_owned();
        let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        reader.get_mut().write_all(answer.as_bytes()).unwrap();
        (head, body)
    }

    #[test]
    fn shutdown_sends_what_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let collector = std::thread::spawn(move || serve_one(&listener));

        let exporter = OtlpExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
        let provider = provider(exporter.with_endpoint(endpoint).build().unwrap());
        drop(provider.tracer("test").start("process a-topic"));
        let telemetry = Telemetry { provider: Some(provider) };
        telemetry.shutdown(Duration::from_secs(5)).unwrap();

        let (head, body) = collector.join().unwrap();
        assert!(head.starts_with("POST /v1/traces "), "{head}");
        assert!(head.contains("application/x-protobuf"), "{head}");
        let body = String::from_utf8_lossy(&body);
        assert!(body.contains("process a-topic") && body.contains(SERVICE_NAME));
    }
}
