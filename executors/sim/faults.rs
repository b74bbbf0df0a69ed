//! What goes wrong in a run, and how often.

/// What a runtime may do to its tasks, and how often this one does: each number is a probability for
/// each step, from 0 (never) to 1 (always). A number outside of that counts as the nearest.
///
/// The first three are *harmless*: any runtime may do them at any time. [`Faults::default`] has them on.
/// A poll too many can hide a wake that was forgotten, so in half of the runs they are off all the same.
/// The others end tasks of the pool, so a test that turns them on must expect
/// [`Aborted`](crate::CommandError::Aborted) and `Closed`.
///
/// ```
/// use shardpool::sim::{Explorer, Faults};
///
/// let rough = Faults::default().late_wakes(0.5).lost_tasks(0.01);
/// Explorer::new(20).faults(rough).run(|sim| async move { sim.yield_now().await });
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    pub(super) spurious_polls: f64,
    pub(super) late_wakes: f64,
    pub(super) new_wakers: f64,
    pub(super) lost_tasks: f64,
    pub(super) shutdown: f64,
}

impl Default for Faults {
    /// The harmless ones, each in moderation.
    fn default() -> Self {
        Self::none().spurious_polls(0.05).late_wakes(0.1).new_wakers(0.2)
    }
}

impl Faults {
    /// Nothing goes wrong; the order of polls is random all the same.
    ///
    /// ```
    /// use shardpool::sim::{Explorer, Faults};
    ///
    /// Explorer::new(5).faults(Faults::none()).run(|sim| async move {
    ///     sim.yield_now().await;
    /// });
    /// ```
    pub fn none() -> Self {
        Self {
            spurious_polls: 0.0,
            late_wakes: 0.0,
            new_wakers: 0.0,
            lost_tasks: 0.0,
            shutdown: 0.0,
        }
    }

    /// How often a task that nobody has woken is polled.
    ///
    /// ```
    /// use shardpool::sim::{Explorer, Faults};
    /// use std::time::Duration;
    ///
    /// Explorer::new(20).faults(Faults::none().spurious_polls(0.5)).run(|sim| async move {
    ///     let other = sim.spawn(sim.yield_at_random());
    ///     sim.sleep(Duration::from_secs(1)).await; // however often it is polled
    ///     assert_eq!(sim.elapsed(), Duration::from_secs(1));
    ///     other.await;
    /// });
    /// ```
    pub fn spurious_polls(mut self, probability: f64) -> Self {
        self.spurious_polls = probability;
        self
    }

    /// How often a wake takes effect some polls later.
    ///
    /// ```
    /// use shardpool::sim::{Explorer, Faults};
    ///
    /// Explorer::new(5).faults(Faults::none().late_wakes(1.0)).run(|sim| async move {
    ///     sim.yield_now().await; // comes back all the same
    /// });
    /// ```
    pub fn late_wakes(mut self, probability: f64) -> Self {
        self.late_wakes = probability;
        self
    }

    /// How often a poll comes with a new waker. The ones before it do nothing any more, as a task may
    /// count on the waker of its last poll only.
    ///
    /// ```
    /// use shardpool::sim::{Explorer, Faults};
    ///
    /// Explorer::new(20).faults(Faults::none().new_wakers(1.0)).run(|sim| async move {
    ///     let other = sim.spawn(sim.yield_at_random());
    ///     other.await; // registers each new waker
    /// });
    /// ```
    pub fn new_wakers(mut self, probability: f64) -> Self {
        self.new_wakers = probability;
        self
    }

    /// How often a task of the pool is dropped where it is, instead of whatever poll was next.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let handler = || handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     *sum += add.1;
    /// #     Ok::<_, Failure<&'static str>>(*sum)
    /// # });
    /// use shardpool::sim::{Explorer, Faults};
    ///
    /// Explorer::new(100).faults(Faults::default().lost_tasks(0.05)).run(|sim| {
    ///     let pool = sim.builder(handler()).start(sim.clone()).unwrap();
    ///     async move {
    ///         let _ = pool.send(Add("a", 1)).await; // an outcome or a refusal, but no hang
    ///     }
    /// });
    /// ```
    pub fn lost_tasks(mut self, probability: f64) -> Self {
        self.lost_tasks = probability;
        self
    }

    /// How often the runtime shuts down: see [`Sim::shut_down`](super::Sim::shut_down).
    ///
    /// ```
    /// use shardpool::sim::{Explorer, Faults};
    ///
    /// Explorer::new(5).faults(Faults::none().shutdown(1.0)).run(|sim| async move {
    ///     sim.yield_now().await;
    ///     assert!(sim.is_shut_down());
    /// });
    /// ```
    pub fn shutdown(mut self, probability: f64) -> Self {
        self.shutdown = probability;
        self
    }

    /// Without the harmless ones.
    pub(super) fn without_harmless(self) -> Self {
        self.spurious_polls(0.0).late_wakes(0.0).new_wakers(0.0)
    }
}
