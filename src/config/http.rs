//! `[http]`: where health, metrics and status are served.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The HTTP side. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
}
