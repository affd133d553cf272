//! `offsets move`: shows what would be done, and does it when told to.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, bail};
use tracing::info;

use crate::apply::Session;
use crate::apply::identity::{self, Identity};
use crate::apply::moves::{self, Effect, Moved, Order, Step};
use crate::commands::offsets::args::{MoveArgs, Target};
use crate::commands::offsets::plan::{Plan, plan};
use crate::commands::offsets::table::{cell, lay_out};
use crate::commands::offsets::{View, say, view};
use crate::config::Config;
use crate::types::{Epoch, TopicPartition};

/// Moves, or shows what would be moved.
pub(super) async fn run(args: &MoveArgs, config: &Config) -> anyhow::Result<()> {
    let time = match args.target() {
        Target::Time(time) => Some(time),
        _ => None,
    };
    let mut session = super::session(config)?;
    let view = view(config, &mut session, Some(&args.topic), time).await?;
    let plans = plans(args, &view)?;
    let reason = match &args.reason {
        Some(reason) if args.execute => reason.clone(),
        _ => {
            say(&table(plans.iter().map(Line::planned)))?;
            permitted(args, &plans)?;
            return say("dry run: nothing was moved; add --execute --reason \"...\" to do it");
        }
    };
    permitted(args, &plans)?;
    let group = config.kafka.group_id.clone();
    let ours = Identity { group: group.clone(), cluster: view.cluster };
    let by = args.by.clone().unwrap_or_else(somebody);
    let steps = plans.into_iter().map(|plan| plan.step).collect();
    let order = Order { group, by, reason, steps };
    let moved = execute(&mut session, &ours, &order).await?;
    for moved in &moved {
        let Moved { step, effect, epoch } = moved;
        let from = cell(step.from);
        info!(partition = %step.source, from, to = %step.to, skipped = effect.skipped, %epoch, by = order.by, "position moved");
    }
    say(&table(moved.iter().map(Line::moved)))?;
    say("moved and recorded: see `user-events-worker offsets history`")
}

/// All partitions or none.
async fn execute(
    session: &mut Session,
    ours: &Identity,
    order: &Order,
) -> anyhow::Result<Vec<Moved>> {
    let conn = session.begin().await.context("connecting to postgres")?;
    // A schema that is nobody's yet becomes ours with the first position in it, as by a worker.
    identity::take(conn, ours).await.context("reading whose schema it is")??;
    match moves::execute(conn, order).await {
        Ok(moved) => {
            session.commit().await.context(
                "committing the move; if the connection was lost, `offsets history` tells whether it was made",
            )?;
            Ok(moved)
        }
        Err(error) => {
            session.roll_back().await;
            Err(error).context("nothing was moved")
        }
    }
}

/// A plan for each partition named, in key order.
fn plans(args: &MoveArgs, view: &View) -> anyhow::Result<Vec<Plan>> {
    let mut wanted: Vec<TopicPartition> = match args.all_partitions {
        true => view.logs.keys().cloned().collect(),
        false => args.partitions.iter().map(|p| TopicPartition::new(&*args.topic, *p)).collect(),
    };
    wanted.sort();
    wanted.dedup();
    if view.logs.is_empty() {
        bail!("kafka has no topic {:?}: nothing was moved", args.topic);
    }
    wanted
        .iter()
        .map(|source| {
            let log = view.logs.get(source).with_context(|| {
                let count = view.logs.len();
                format!("kafka has no partition {source}: topic {:?} has {count}", args.topic)
            })?;
            let position = view.positions.iter().find(|position| position.source == *source);
            Ok(plan(args, source, position, log)?)
        })
        .collect()
}

fn permitted(args: &MoveArgs, plans: &[Plan]) -> anyhow::Result<()> {
    plans.iter().try_for_each(|plan| plan.permitted(args.skip))?;
    Ok(())
}

/// Who runs this, as far as the machine knows: a name for the record, not a proof.
fn somebody() -> String {
    let named = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
    let user = named("USER").or_else(|| named("LOGNAME")).unwrap_or_else(|| {
        std::fs::metadata("/proc/self")
            .map_or_else(|_| "unknown".to_owned(), |me| format!("uid {}", me.uid()))
    });
    let host = hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{user}@{host}")
}

/// One line of what would be, or was, moved.
struct Line<'a> {
    step: &'a Step,
    effect: Effect,
    epoch: Option<Epoch>,
}

impl<'a> Line<'a> {
    fn planned(plan: &'a Plan) -> Self {
        Self { step: &plan.step, effect: plan.effect, epoch: plan.step.viewed }
    }

    fn moved(moved: &'a Moved) -> Self {
        Self { step: &moved.step, effect: moved.effect, epoch: Some(moved.epoch) }
    }
}

fn table<'a>(lines: impl Iterator<Item = Line<'a>>) -> String {
    let rows: Vec<_> = lines
        .map(|line| {
            [
                line.step.source.topic.to_string(),
                line.step.source.partition.to_string(),
                cell(line.step.from),
                line.step.to.to_string(),
                line.effect.skipped.to_string(),
                line.effect.repeated.to_string(),
                cell(line.epoch),
            ]
        })
        .collect();
    lay_out(["TOPIC", "PARTITION", "FROM", "TO", "SKIPPED", "REPEATED", "EPOCH"], &rows)
}
