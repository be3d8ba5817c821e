//! All checks.

use super::{
    bus_and_store, check::Check, postgres_access, postgres_contents, postgres_replicas, postgres_server,
    postgres_tables, redis_access, redis_contents, redis_groups, redis_server, sqlite_file,
};

/// Returns all checks, in the order in which the doctor makes them.
///
/// # Examples
/// ```
/// let names: Vec<_> = eventbus_cli::doctor::checks().map(|check| check.name()).collect();
/// assert!(names.contains(&"pg-sync-commit") && names.contains(&"redis-eviction"));
/// ```
pub fn checks() -> impl Iterator<Item = &'static Check> {
    [
        postgres_server::CHECKS,
        postgres_replicas::CHECKS,
        postgres_access::CHECKS,
        postgres_tables::CHECKS,
        postgres_contents::CHECKS,
        redis_server::CHECKS,
        redis_access::CHECKS,
        redis_groups::CHECKS,
        redis_contents::CHECKS,
        bus_and_store::CHECKS,
        sqlite_file::CHECKS,
    ]
    .into_iter()
    .flatten()
}

/// No check has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no check `{name}`; the nearest is `{nearest}`")]
pub struct UnknownCheck {
    /// The name.
    pub name: String,
    /// The name of the check with the most similar spelling.
    pub nearest: &'static str,
}

/// Finds a check by its name.
pub(crate) fn find(name: &str) -> Result<&'static Check, UnknownCheck> {
    let similarity = |check: &&'static Check| strsim::jaro_winkler(name, check.name());
    match checks().find(|check| check.name() == name) {
        Some(check) => Ok(check),
        None => {
            let nearest = checks().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
            Err(UnknownCheck { name: name.into(), nearest: nearest.map_or("", Check::name) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_check_has_a_name_of_its_own() {
        let names: BTreeSet<_> = checks().map(Check::name).collect();
        assert_eq!(names.len(), checks().count());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')), "{names:?}");
    }

    #[test]
    fn the_nearest_name_is_named() {
        let error = find("redis-evictions").unwrap_err();
        assert_eq!(error.to_string(), "there is no check `redis-evictions`; the nearest is `redis-eviction`");
    }
}
