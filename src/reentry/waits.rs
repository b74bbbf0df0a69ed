//! What one handler waits for: a list that is replaced as a whole, where a new version shares nearly all
//! with the one before. So a handler with many waits at once, as in a `join_all`, does not pay for all of
//! them at each.
//!
//! It is cut into pieces. Who changes a copy copies the piece in question, and a pointer for each other.

// Not the one that loom knows: nothing is ordered through it.
use std::sync::Arc;

/// How many are in a piece at most. A list of `n` is changed at the cost of `n / PIECE + PIECE` pointers, or more where
/// pieces have become thin.
const PIECE: usize = 64;

/// Items with numbers, in ascending order.
#[derive(Clone)]
pub(crate) struct Waits<T> {
    /// None is empty.
    pieces: Vec<Arc<Vec<(u64, T)>>>,
}

impl<T: Clone> Waits<T> {
    pub(crate) fn new() -> Self {
        Self { pieces: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.pieces.iter().flat_map(|piece| piece.iter().map(|(number, item)| (*number, item)))
    }

    /// Its number must be greater than all that are there.
    pub(crate) fn push(&mut self, number: u64, item: T) {
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE => Arc::make_mut(last).push((number, item)),
            _ => self.pieces.push(Arc::new(vec![(number, item)])),
        }
    }

    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        let (piece, at) = self.find(number)?;
        Some(&self.pieces[piece][at].1)
    }

    pub(crate) fn replace(&mut self, number: u64, item: T) {
        if let Some((piece, at)) = self.find(number) {
            Arc::make_mut(&mut self.pieces[piece])[at].1 = item;
        }
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let Some((piece, at)) = self.find(number) else { return };
        if self.pieces[piece].len() == 1 {
            self.pieces.remove(piece);
        } else {
            Arc::make_mut(&mut self.pieces[piece]).remove(at);
        }
    }

    /// The piece that it is in, and its place there.
    fn find(&self, number: u64) -> Option<(usize, usize)> {
        let piece = self.pieces.partition_point(|piece| piece[0].0 <= number).checked_sub(1)?;
        let at = self.pieces[piece].binary_search_by_key(&number, |&(number, _)| number).ok()?;
        Some((piece, at))
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn items(waits: &Waits<u64>) -> Vec<u64> {
        waits.iter().map(|(_, item)| *item).collect()
    }

    #[test]
    fn a_list_of_waits_is_an_ordered_map() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut waits, mut model) = (Waits::new(), BTreeMap::new());
        for number in 0..2_000 {
            waits.push(number, number);
            model.insert(number, number);
            for _ in 0..rng.usize(..3) {
                let one = rng.u64(..=number + 1);
                assert_eq!(waits.get(one), model.get(&one));
                if rng.bool() {
                    waits.replace(one, one + 7);
                    model.entry(one).and_modify(|item| *item = one + 7);
                } else {
                    waits.remove(one);
                    model.remove(&one);
                }
            }
            assert_eq!(waits.is_empty(), model.is_empty());
            assert!(waits.iter().eq(model.iter().map(|(number, item)| (*number, item))));
        }
        for number in 0..2_000 {
            waits.remove(number);
        }
        assert!(waits.is_empty() && waits.pieces.is_empty());
    }

    #[test]
    fn a_change_of_a_copy_leaves_the_list_as_it_was_and_shares_the_other_pieces() {
        let mut waits = Waits::new();
        (0..10 * PIECE as u64).for_each(|number| waits.push(number, number));
        let before = items(&waits);
        let mut copy = waits.clone();
        copy.remove(100);
        copy.replace(300, 0);
        copy.push(10 * PIECE as u64, 0);
        assert_eq!(items(&waits), before);
        let shared = |piece: &&Arc<_>| waits.pieces.iter().any(|other| Arc::ptr_eq(piece, other));
        assert_eq!(copy.pieces.iter().filter(shared).count(), 8);
    }
}
