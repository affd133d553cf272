//! Faults under load, each followed by the checker. What breaks here: workers, their membership,
//! their time, and Postgres' patience; the services themselves stay up.

mod ambiguous;
mod crashes;
mod guards;
mod kills;
mod membership;
mod owners;
mod pressure;
mod shutdown;
mod stalls;
mod zombies;

use crate::support::Scene;

/// Writes down every offset that moves backwards, from before the first worker on.
async fn watch_for_steps_back(scene: &Scene) {
    scene.migrate().await;
    scene
        .execute(
            "CREATE TABLE steps_back (partition int, next_offset bigint, back_to bigint);
             CREATE FUNCTION note_step_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO steps_back VALUES (OLD.partition, OLD.next_offset, NEW.next_offset);
               RETURN NULL; END $$;
             CREATE TRIGGER note_step_back AFTER UPDATE ON source_offsets FOR EACH ROW
               WHEN (NEW.next_offset < OLD.next_offset) EXECUTE FUNCTION note_step_back()",
        )
        .await;
}

/// What is applied stays applied.
async fn never_stepped_back(scene: &Scene) {
    let steps: Vec<(i32, i64, i64)> = scene.fetch_all("SELECT * FROM steps_back").await;
    assert!(steps.is_empty(), "offsets moved backwards (partition, from, to): {steps:?}");
}
