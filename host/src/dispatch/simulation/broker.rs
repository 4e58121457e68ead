//! What the simulation asks of a broker; the adapters' cores behind it are the real ones.

use super::dice::Dice;
use super::message::Id;
use crate::broker::{Receipt, Token};

/// Tells whether a message may be forgotten by its broker.
pub type Durable<'a> = &'a dyn Fn(Id) -> bool;

pub trait Broker {
    /// Retries of a lane wait in memory (a topic) or in the store at once (a queue).
    const HOLDS: bool;

    fn publish(&mut self, id: Id, key: Option<u8>, dice: &mut Dice);
    fn recv(&mut self, max: usize, dice: &mut Dice) -> Vec<(Id, Receipt)>;
    /// Commits or acknowledgements that are due. `lost`: they do not arrive, when the broker's protocol allows that.
    fn report(&mut self, lost: bool, durable: Durable<'_>);
    /// A rebalance or a lost connection goes a step on. True when it took something away from us.
    fn disturb(&mut self, dice: &mut Dice, durable: Durable<'_>) -> bool;
    /// Nobody else can have the delivery, or will get it while we hold it.
    fn is_ours(&self, token: Token) -> bool;
    /// Everything is ours again.
    fn heal(&mut self, durable: Durable<'_>);
    /// The host died; the broker goes on from what it was told.
    fn restart(&mut self);
    /// When `report` has something to do that is not due yet.
    fn next_report(&self) -> Option<u64>;
    /// Nothing is left to deliver or to acknowledge.
    fn is_finished(&self) -> bool;
}
