//! Points where a test makes the worker die, freeze or forget, and switches that take a guard away.
//!
//! Only with the cargo feature `failpoints`, which no release has: without it everything here is
//! empty and compiles to nothing. With it, `FAILPOINTS` in the environment says what happens where,
//! in the words of the crate `fail`, pairs separated by `;`:
//!
//! ```text
//! before-commit=20*off->1*return      the 21st batch ends the process before its COMMIT
//! after-fence=1*return(stop)          the process stops itself there (SIGSTOP) until SIGCONT
//! without-epoch=return                the fence does not look at the epoch
//! ```
//!
//! The points are [`Point`], the switches [`Guard`]. A name that is neither refuses the start: a
//! test whose fault never happens would pass for nothing.

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("no optimized worker may have failpoints: build it without that feature");

/// An enum whose variants have names in `FAILPOINTS`.
macro_rules! named {
    ($(#[$about:meta])* $kind:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $kind {
            $(#[doc = concat!("`", $name, "`: ")] $(#[$doc])* $variant,)*
        }

        impl $kind {
            /// Every name of this kind.
            pub const NAMES: &[&str] = &[$($name),*];

            /// Its name in `FAILPOINTS`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

named! {
    /// A place where the process is killed, or with `return(stop)` stopped.
    Point {
        /// a batch's transaction has begun and holds no lock yet.
        BeforeFence = "before-fence",
        /// the offsets are moved and their rows locked, nothing else is written.
        AfterFence = "after-fence",
        /// all is written, COMMIT is not sent.
        BeforeCommit = "before-commit",
        /// Postgres has confirmed, and nobody here knows yet.
        AfterCommit = "after-commit",
    }
}

named! {
    /// Something else that goes wrong when asked for by `return`.
    Mishap {
        /// a lane waits for ever for a batch that was applied.
        LostAnswer = "lost-answer",
        /// the poll thread stands still for as long as this says `return`.
        StuckPoll = "stuck-poll",
        /// what is read of every partition 0 never reaches its lane.
        LostDelivery = "lost-delivery",
        /// the worker joins a Kafka group of its own, while its claims stay in the configured
        /// one: an owner whom the group protocol does not keep from owning.
        TwinGroup = "twin-group",
    }
}

named! {
    /// A guard that tests switch off by `return`, to see that they would notice.
    Guard {
        /// the fence takes whatever epoch the row has for its own.
        Epoch = "without-epoch",
        /// the fence moves an offset from wherever it stands.
        Offset = "without-offset",
        /// an event counts as fresh although the ledger has it.
        EventKey = "without-event-key",
        /// offsets are committed before what they stand for.
        Transaction = "without-transaction",
        /// a full lane holds up the poll for as long as it takes.
        Pause = "without-pause",
        /// one record Postgres refuses condemns its whole batch.
        Bisect = "without-bisect",
        /// records read before a partition was claimed anew are taken for current.
        Generation = "without-generation",
        /// a batch in doubt is taken for not committed.
        Resolve = "without-resolve",
        /// nothing but `statement_timeout` ends the wait for a lock.
        LockTimeout = "without-lock-timeout",
        /// Postgres keeps the transaction of a worker that sleeps.
        IdleTimeout = "without-idle-timeout",
    }
}

#[cfg(feature = "failpoints")]
pub use armed::{Armed, arm, happens, is_off, reach};
#[cfg(not(feature = "failpoints"))]
pub use unarmed::{happens, is_off, reach};

#[cfg(not(feature = "failpoints"))]
mod unarmed {
    use super::{Guard, Mishap, Point};

    /// Nothing happens here.
    pub const fn reach(_: Point) {}

    /// It does not.
    pub const fn happens(_: Mishap) -> bool {
        false
    }

    /// It is not.
    pub const fn is_off(_: Guard) -> bool {
        false
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use anyhow::bail;
    use nix::sys::signal::{Signal, raise};
    use tracing::{error, warn};

    use super::{Guard, Mishap, Point};

    /// Keeps what `FAILPOINTS` asks for in force until dropped.
    #[must_use = "the points are disarmed when this is dropped"]
    pub struct Armed {
        _scenario: fail::FailScenario<'static>,
    }

    /// Reads `FAILPOINTS`.
    ///
    /// # Errors
    /// A name that is no point, no mishap and no guard.
    pub fn arm() -> anyhow::Result<Armed> {
        let armed = Armed { _scenario: fail::FailScenario::setup() };
        for (name, actions) in fail::list() {
            if !names().contains(&name.as_str()) {
                bail!("FAILPOINTS: there is no {name:?}, but there are {}", names().join(", "));
            }
            warn!(name, actions, "failpoint armed: this is no worker for production");
        }
        Ok(armed)
    }

    fn names() -> Vec<&'static str> {
        [Point::NAMES, Mishap::NAMES, Guard::NAMES].concat()
    }

    /// Kills or stops the process when a test asked for it. Neither can be caught or cleaned up
    /// after: SIGKILL and SIGSTOP.
    pub fn reach(point: Point) {
        let Some(argument) = eval(point.name()) else { return };
        let signal = match argument.as_deref() {
            Some("stop") => Signal::SIGSTOP,
            _ => Signal::SIGKILL,
        };
        warn!(point = point.name(), %signal, "failpoint reached");
        if let Err(error) = raise(signal) {
            error!(%error, "the failpoint had no effect");
        }
    }

    /// Whether a test asked for this to go wrong now.
    pub fn happens(mishap: Mishap) -> bool {
        eval(mishap.name()).is_some()
    }

    /// Whether a test does without this guard.
    pub fn is_off(guard: Guard) -> bool {
        eval(guard.name()).is_some()
    }

    /// The argument of the action due now, when there is one.
    fn eval(name: &str) -> Option<Option<String>> {
        fail::fail_point!(name, Some);
        None
    }
}
