//! The ledger's months, made before the batch that needs them.

use std::collections::HashSet;

use time::Date;

use crate::apply::batch::{Batch, Content};
use crate::apply::dead_letters::{Caps, DeadLetter};
use crate::apply::ledger::{self, Month};
use crate::apply::outcome::ApplyError;
use crate::apply::prepared::ReadyBatch;
use crate::apply::writer::Writer;
use crate::event::{Reason, Rejection};

/// What looking for its months did to a batch.
pub(super) enum Checked {
    AsItWas,
    /// Some of its events are dead letters now.
    Changed,
}

impl Writer {
    /// Creates ledger months ahead of time.
    ///
    /// # Errors
    /// When Postgres does not answer or refuses.
    pub async fn prepare_months(&mut self, months: &[Date]) -> Result<(), ApplyError> {
        for month in months {
            let result = self.ensure_month(*month).await;
            self.cleaned(result).await?;
        }
        Ok(())
    }

    /// Creates the months the batch's events belong to; events of an expired one are rejected.
    pub(super) async fn ensure_months(
        &mut self,
        batch: &mut ReadyBatch,
    ) -> Result<Checked, ApplyError> {
        let mut checked = Checked::AsItWas;
        let mut months: Vec<Date> =
            ledger::events(batch).map(|(_, event)| ledger::month_of(event.time)).collect();
        months.dedup();
        let wanted: HashSet<Date> =
            months.into_iter().filter(|month| !self.months.contains(month)).collect();
        for month in wanted {
            if self.ensure_month(month).await? == Month::Expired {
                reject_month(batch.change(), month, self.options.caps);
                checked = Checked::Changed;
            }
        }
        Ok(checked)
    }

    async fn ensure_month(&mut self, month: Date) -> Result<Month, ApplyError> {
        let ensured = async {
            let conn = self.session.begin().await?;
            let answer = ledger::ensure_month(conn, month).await?;
            self.session.commit().await?;
            Ok(answer)
        };
        let answer = ensured.await.map_err(ApplyError::at("ledger month"))?;
        if answer == Month::Ready {
            self.months.insert(month);
        }
        Ok(answer)
    }
}

fn reject_month(batch: &mut Batch, month: Date, caps: Caps) {
    for item in &mut batch.items {
        let Content::Event(event, _) = &item.content else { continue };
        if ledger::month_of(event.time) != month {
            continue;
        }
        let Content::Event(_, raw) = std::mem::replace(&mut item.content, Content::Skipped) else {
            continue;
        };
        let detail = "`time` lies in a month that was dropped from the ledger for its age; \
                      send events within the retention"
            .to_owned();
        let rejection = Rejection { reason: Reason::TimeOutOfRange, detail };
        item.content = Content::DeadLetter(Box::new(DeadLetter::new(raw, rejection, caps)));
    }
}
