//! Chance from one generator with a seed: real runs take the seed from the operating system, simulations name it.

use std::sync::{Mutex, PoisonError};

use super::Dice;

/// Dice whose throws follow from a seed.
pub struct SeededDice(Mutex<fastrand::Rng>);

impl SeededDice {
    /// Dice that throw the same numbers for the same seed.
    pub fn new(seed: u64) -> SeededDice {
        SeededDice(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    /// Dice nobody can foretell well; good for jitter, never for keys.
    pub(super) fn from_entropy() -> SeededDice {
        SeededDice(Mutex::new(fastrand::Rng::new()))
    }
}

impl Dice for SeededDice {
    fn roll(&self) -> u64 {
        // A generator is whole after every throw, so a panic elsewhere while it was held does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).u64(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_and_fractions_stay_below_one() {
        let (a, b, c) = (SeededDice::new(7), SeededDice::new(7), SeededDice::new(8));
        let throws = |dice: &SeededDice| (0..64).map(|_| dice.roll()).collect::<Vec<_>>();
        let first = throws(&a);
        assert_eq!(first, throws(&b));
        assert_ne!(first, throws(&c));
        assert!((0..10_000).all(|_| (0.0..1.0).contains(&a.fraction())));
    }
}
