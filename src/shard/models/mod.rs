//! Models of what dispatcher, workers and submitters of one shard do with each other.

mod front;
