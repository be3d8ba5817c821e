//! Which shards a process should own: the rule by which live processes share the shards of their handlers.
//!
//! A handler's shards are shared by the live members whose list of its types has the highest number. A member with a lower
//! number gives its shards up. Each member takes at most its share of each handler, and at most its share of all.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    domain::name::Name,
    port::handler_progress::{Member, ShardId},
};

/// The state of a handler at this process, for its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HandlerShare {
    /// The number of all its shards.
    pub(super) shards: u16,
    /// The number of those that this process owns and keeps.
    pub(super) owned: usize,
    /// The live members that may own its shards, this one included; 0 if this one may not.
    pub(super) members: usize,
}

impl HandlerShare {
    fn most(&self) -> usize {
        usize::from(self.shards).div_ceil(self.members.max(1))
    }
}

/// Returns the number of live members that may own shards of a handler, this one included; 0 if this one may not,
/// because a live member has a list of types with a higher number.
pub(super) fn count_members(handler: &Name, own_list: u32, live: &[Member]) -> usize {
    let lists = || live.iter().filter_map(|member| member.handlers.get(handler)).map(|handler| handler.list);
    let highest = lists().max().unwrap_or(own_list);
    if own_list < highest { 0 } else { lists().filter(|list| *list == highest).count().max(1) }
}

/// Returns the most shards of all handlers that a process should own: its share of each, added up.
fn most_of_all(shares: &BTreeMap<Name, HandlerShare>) -> usize {
    let share = |share: &HandlerShare| match share.members {
        0 => 0.0,
        members => f64::from(share.shards) / members as f64,
    };
    // a sum of thirds may be a little above a whole number
    (shares.values().map(share).sum::<f64>() - 1e-6).ceil().max(0.0) as usize
}

/// Returns the free shards to acquire. `orphans` are those that no process has acquired for long: their
/// share does not count.
pub(super) fn choose_acquired(
    shares: &BTreeMap<Name, HandlerShare>,
    free: &BTreeSet<ShardId>,
    orphans: &BTreeSet<ShardId>,
) -> Vec<ShardId> {
    let mut owned: BTreeMap<&Name, usize> = shares.iter().map(|(name, share)| (name, share.owned)).collect();
    let (most, mut all) = (most_of_all(shares), owned.values().sum::<usize>());
    let mut chosen = Vec::new();
    for shard in free {
        let Some(share) = shares.get(&shard.handler).filter(|share| share.members > 0) else { continue };
        let Some(of_handler) = owned.get_mut(&shard.handler) else { continue };
        if (*of_handler < share.most() && all < most) || orphans.contains(shard) {
            *of_handler += 1;
            all += 1;
            chosen.push(shard.clone());
        }
    }
    chosen
}

/// Returns the handler of which to release a shard, because this process has more than its share.
pub(super) fn choose_released(shares: &BTreeMap<Name, HandlerShare>) -> Option<&Name> {
    let all: usize = shares.values().map(|share| share.owned).sum();
    let has_too_many = all > most_of_all(shares);
    let shared = shares.iter().filter(|(_, share)| share.members > 1 && share.owned > 0);
    let surplus = shared.clone().find(|(_, share)| share.owned > share.most());
    let most_owned = || shared.max_by_key(|(_, share)| share.owned).filter(|_| has_too_many);
    surplus.or_else(most_owned).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::handler_progress::MemberHandler;

    const MAIL: Name = Name::from_static("mail");
    const AUDIT: Name = Name::from_static("audit");

    fn share(shards: u16, owned: usize, members: usize) -> HandlerShare {
        HandlerShare { shards, owned, members }
    }

    fn free(handler: &Name, numbers: std::ops::Range<u16>) -> BTreeSet<ShardId> {
        numbers.map(|number| ShardId { handler: handler.clone(), number }).collect()
    }

    fn chosen(shares: &[(Name, HandlerShare)], free: &BTreeSet<ShardId>) -> usize {
        choose_acquired(&shares.iter().cloned().collect(), free, &BTreeSet::new()).len()
    }

    #[test]
    fn a_lone_process_takes_all_shards_and_two_share_them() {
        assert_eq!(chosen(&[(MAIL, share(16, 0, 1))], &free(&MAIL, 0..16)), 16);
        assert_eq!(chosen(&[(MAIL, share(16, 0, 2))], &free(&MAIL, 0..16)), 8);
        assert_eq!(chosen(&[(MAIL, share(16, 3, 2))], &free(&MAIL, 3..16)), 5);
        assert_eq!(chosen(&[(MAIL, share(1, 0, 2))], &free(&MAIL, 0..1)), 1);
        assert_eq!(chosen(&[(MAIL, share(1, 0, 0))], &free(&MAIL, 0..1)), 0, "another one has newer types");
    }

    #[test]
    fn handlers_with_one_shard_are_spread_over_the_processes() {
        let shares = [(AUDIT, share(1, 0, 2)), (MAIL, share(1, 0, 2))];
        let all: BTreeSet<_> = free(&AUDIT, 0..1).into_iter().chain(free(&MAIL, 0..1)).collect();
        assert_eq!(chosen(&shares, &all), 1, "the other process takes the other one");
        let has_both = BTreeMap::from([(AUDIT, share(1, 1, 2)), (MAIL, share(1, 1, 2))]);
        assert!(choose_released(&has_both).is_some());
        let has_one = BTreeMap::from([(AUDIT, share(1, 1, 2)), (MAIL, share(1, 0, 2))]);
        assert_eq!(choose_released(&has_one), None);
        // the other process does not run `audit`
        let only_here = BTreeMap::from([(AUDIT, share(1, 1, 1)), (MAIL, share(1, 0, 2))]);
        assert_eq!(choose_released(&only_here), None);
    }

    #[test]
    fn an_orphan_is_acquired_beyond_the_share() {
        let shares = BTreeMap::from([(MAIL, share(2, 1, 2))]);
        let shards = free(&MAIL, 1..2);
        assert!(choose_acquired(&shares, &shards, &BTreeSet::new()).is_empty());
        assert_eq!(choose_acquired(&shares, &shards, &shards).len(), 1);
    }

    #[test]
    fn the_members_with_the_highest_list_of_types_own_a_handler() {
        let member = |name: &'static str, list| Member {
            name: Name::from_static(name),
            handlers: BTreeMap::from([(MAIL, MemberHandler { list, crate_name: "shop".into() })]),
        };
        let live = [member("old", 1), member("new", 2), member("newer", 2)];
        assert_eq!((count_members(&MAIL, 1, &live), count_members(&MAIL, 2, &live)), (0, 2));
        assert_eq!(count_members(&MAIL, 1, &live[..1]), 1, "alone it goes on");
        assert_eq!(count_members(&MAIL, 1, &[]), 1);
    }
}
