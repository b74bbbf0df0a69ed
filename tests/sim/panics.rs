//! Panics of user code end at most the command at hand (G7).

use crate::load::{Fate, Load, Settings};
use crate::script::Act;
use shardpool::CommandError;
use shardpool::sim::explore;

#[test]
fn sim_g07_panics_everywhere_and_the_pool_goes_on() {
    explore(2_000, |sim| async move {
        let settings = Settings { failures: 0.5, poison: 0.3, ..Settings::random(&sim) };
        let (loads, same_hash) = (settings.loads, settings.same_hash);
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        for client in load.clients(&pool) {
            client.await;
        }
        // An id that panics when compared is in the way of those that share its hash, so not there; and
        // not every load succeeds.
        for id in 0..8 {
            let answer = pool.send(load.world.command(id, (90, id), Act::Commit)).await;
            assert!(answer.is_ok() || loads || same_hash, "{answer:?}");
        }
        pool.drain().await.unwrap();
        load.assert_quiet(&pool);
        drop(pool);
        load.ended().await;
    });
}

#[test]
fn sim_g07_only_the_command_at_hand_is_ended_by_a_panic() {
    explore(1_500, |sim| async move {
        let settings = Settings {
            loads: false,
            resident: None,
            same_hash: false,
            failures: 0.5,
            poison: 0.2,
            ..Settings::random(&sim)
        };
        let load = Load::new(&sim, settings);
        for report in load.run().await {
            if let Fate::Ended(Err(CommandError::Panicked { message, started })) = &report.fate {
                let panics =
                    matches!(report.act, Act::PanicAtOnce | Act::PanicLater | Act::PanicAtEnd);
                assert!(panics || report.is_poisoned, "{:?} did not: {message}", report.tag);
                assert!(*started || report.id >= 100, "{:?}: {message}", report.tag);
            }
        }
    });
}
