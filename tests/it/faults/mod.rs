//! Faults under load, each followed by the checker. What breaks here: workers, their membership,
//! their time, and Postgres' patience; the services themselves stay up.

mod crashes;
mod membership;
mod pressure;
mod shutdown;
mod zombies;
