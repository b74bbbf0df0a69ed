//! The first program of the README: `cargo run --features tokio --example first_program`.

use shardpool::{Command, CommandHandler, Context, Failure, ShardPool, executors};

struct Deposit {
    account: String,
    cents: u64,
}

impl Command for Deposit {
    type AggregateId = String;
    fn aggregate_id(&self) -> &String {
        &self.account
    }
}

struct Ledger {
    limit: u64,
}

impl CommandHandler for Ledger {
    type Command = Deposit;
    type State = u64; // resident state of one account
    type Output = u64;
    type Error = String;

    async fn handle(
        &self,
        balance: &mut u64,
        deposit: Deposit,
        _cx: &Context,
    ) -> Result<u64, Failure<String>> {
        if *balance + deposit.cents > self.limit {
            return Err(Failure::Rejected(format!("{} is full", deposit.account)));
        }
        *balance += deposit.cents;
        Ok(*balance)
    }
}

#[tokio::main]
async fn main() {
    let pool = ShardPool::builder(Ledger { limit: 100 })
        .shards(8)
        .workers_per_shard(8)
        .queue_depth(1024)
        .start(executors::Tokio::current().expect("inside a runtime"))
        .expect("valid settings");

    // Waits for room, then for the outcome.
    let receipt = pool.send(Deposit { account: "alice".into(), cents: 60 }).await.unwrap();
    assert_eq!((receipt.version, receipt.output), (1, 60));

    // Waits for room; the ticket is a future of the outcome.
    let ticket = pool.submit(Deposit { account: "alice".into(), cents: 60 }).await.unwrap();
    assert_eq!(ticket.await.unwrap_err().to_string(), "command rejected: alice is full");

    // Stops intake now, finishes what was accepted, ends every task.
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.rejected), (1, 1));
    println!("{outcomes:?}");
}
