//! Transfers between accounts of two tenants, each saved at once with a record of it and a check of the limit that the decision read;
//! and a handler that reacts to each transfer, by saving to two tallies what it saw in them.

use eventbus::{Never, Uuid, prelude::*};
use fastrand::Rng;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::fire::{HarnessError, place::retry};

/// Number of transfers that a member makes at once.
const MADE_AT_ONCE: usize = 8;
/// Transfers of one term, which has accounts, tallies and limits of its own, so that their streams stay short.
const TRANSFERS_OF_TERM: u64 = 1_000;
const ACCOUNTS: u64 = 20;
const TALLIES: u64 = 4;
/// One transfer in so many is followed by a change of the limit.
const LIMIT_CHANGE: u64 = 20;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Transfer)]
pub(super) struct Transferred {
    pub(super) number: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "ReactionsTransfer", events(Transferred))]
struct Transfer;

impl Apply for Transfer {
    fn apply(&mut self, _event: &TransferEvent) {}
}

/// A half of a transfer.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
pub(super) struct Moved {
    pub(super) number: u64,
    pub(super) cents: i64,
    /// How often the limit had changed.
    pub(super) limit: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "ReactionsAccount", events(Moved))]
struct Account;

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Limit)]
pub(super) struct LimitChanged {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "ReactionsLimit", events(LimitChanged))]
struct Limit {
    changes: u64,
}

impl Apply for Limit {
    fn apply(&mut self, _event: &LimitEvent) {
        self.changes += 1;
    }
}

/// A reaction to a transfer.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Tally)]
pub(super) struct Counted {
    pub(super) number: u64,
    /// How many transfers the tally had counted.
    pub(super) seen: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "ReactionsTally", events(Counted))]
pub(super) struct Tally {
    counted: u64,
}

impl Apply for Tally {
    fn apply(&mut self, _event: &TallyEvent) {
        self.counted += 1;
    }
}

/// Returns the tenant of a transfer: accounts, limits and tallies of two tenants have the same ids.
pub(super) const fn tenant_of(number: u64) -> Option<Uuid> {
    Some(Uuid::from_u128(1 + (number / 2 % 2) as u128))
}

/// Returns the id of an aggregate of the term that a transfer is in.
fn of_term(kind: &str, number: u64, aggregate: u64) -> String {
    format!("{kind}-{}-{aggregate}", number / TRANSFERS_OF_TERM)
}

/// Returns the limit that a transfer reads.
pub(super) fn limit_of(number: u64) -> String {
    of_term("limit", number, 0)
}

/// Returns the two tallies that count a transfer.
pub(super) fn tallies(number: u64) -> [String; 2] {
    [number % TALLIES, (number + 1) % TALLIES].map(|tally| of_term("tally", number, tally))
}

#[handler(manual)]
pub(super) async fn count(event: &Transferred, tallies_of: Repository<Tally>) -> eventbus::Result<()> {
    for tally in tallies(event.number) {
        let counted = |tally: &Tally| Ok::<_, Never>(Counted { number: event.number, seen: tally.counted });
        tallies_of.upsert(&tally.parse()?, counted).await?;
    }
    Ok(())
}

/// Makes the transfers of these numbers, of which a process before may have made the first ones.
pub(super) async fn make_transfers(app: &App, numbers: &[u64], random: &mut Rng) -> Result<(), HarnessError> {
    let transfers = app.repository::<Transfer>();
    let id = |number: u64| format!("transfer-{number}").parse::<AggregateId>();
    let (mut made, mut unknown) = (0, numbers.len());
    while made < unknown {
        let middle = made + (unknown - made) / 2;
        let of_tenant = transfers.for_tenant(tenant_of(numbers[middle]));
        match of_tenant.exists(&id(numbers[middle])?).await? {
            true => made = middle + 1,
            false => unknown = middle,
        }
    }
    // a transfer that was made at once with one before it may have been made first
    let making = numbers[made.saturating_sub(MADE_AT_ONCE)..].iter().map(|&number| {
        let mut random = random.fork();
        async move {
            let id = id(number)?;
            // after an error the next look at the transfer tells whether it was made
            retry(async || make_once(app, &id, number, &mut random).await).await
        }
    });
    stream::iter(making).buffered(MADE_AT_ONCE).try_collect().await
}

/// Makes a transfer, unless it is made.
async fn make_once(app: &App, id: &AggregateId, number: u64, random: &mut Rng) -> Result<(), HarnessError> {
    let transfers = app.repository::<Transfer>().for_tenant(tenant_of(number));
    while !transfers.exists(id).await? {
        try_transfer(app, transfers.create_new(id.clone()), number, random).await?;
    }
    if random.u64(..LIMIT_CHANGE) == 0 {
        let limits = app.repository::<Limit>().for_tenant(tenant_of(number));
        limits.upsert(&limit_of(number).parse()?, |_| Ok::<_, Never>(LimitChanged {})).await?;
    }
    Ok(())
}

/// Makes a transfer between two random accounts, unless a different writer is first.
async fn try_transfer(
    app: &App,
    mut transfer: AggregateRoot<Transfer>,
    number: u64,
    random: &mut Rng,
) -> Result<(), HarnessError> {
    let accounts = app.repository::<Account>().for_tenant(tenant_of(number));
    let limits = app.repository::<Limit>().for_tenant(tenant_of(number));
    let from = random.u64(..ACCOUNTS);
    let to = (from + random.u64(1..ACCOUNTS)) % ACCOUNTS;
    let mut of = Vec::new();
    for account in [from, to] {
        let id = of_term("account", number, account).parse()?;
        of.push(accounts.find(&id).await?.unwrap_or_else(|| accounts.create_new(id)));
    }
    let limit_id = limit_of(number).parse()?;
    let limit = limits.find(&limit_id).await?.unwrap_or_else(|| limits.create_new(limit_id));
    transfer.record(Transferred { number });
    let cents = random.i64(1..100);
    for (account, cents) in of.iter_mut().zip([-cents, cents]) {
        account.record(Moved { number, cents, limit: limit.changes });
    }
    let together = of.iter_mut().fold(app.together().save(&mut transfer), |together, account| together.save(account));
    match together.unchanged(&limit).commit().await {
        Err(error) if !error.is_conflict() => Err(error.into()),
        _ => Ok(()),
    }
}
