//! The Lua scripts, each one atomic step of Redis.

use std::sync::LazyLock;

use redis::Script;

/// Reserves ids above a floor and returns the first; 0 if there is no counter and no floor (-1). The key holds the next
/// id.
pub(super) static RESERVE_IDS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local next, floor = tonumber(redis.call('GET', KEYS[1]) or 0) or 0, tonumber(ARGV[2])
if next < 1 and floor < 0 then
    return 0
end
if next <= floor then
    next = floor + 1
end
redis.call('SET', KEYS[1], string.format('%d', next + ARGV[1]))
return next",
    )
});

/// Lowers the counter if it still has the expected value.
pub(super) static LOWER_COUNTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[2])
end
return 1",
    )
});

/// Extends a claim, and restores it if Redis has lost it; 0 if a different worker owns it.
pub(super) static RENEW_CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local held = redis.call('GET', KEYS[1])
if held then
    local is_json, claim = pcall(cjson.decode, held)
    if not is_json or type(claim) ~= 'table' or claim.worker_id ~= ARGV[1] then
        return 0
    end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1",
    )
});

/// Deletes a claim, or a lock, of this worker; 0 if it is gone or a different worker owns it.
pub(super) static RELEASE_CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local held = redis.call('GET', KEYS[1])
if not held then
    return 0
end
local is_json, claim = pcall(cjson.decode, held)
if held == ARGV[1] or (is_json and type(claim) == 'table' and claim.worker_id == ARGV[1]) then
    return redis.call('DEL', KEYS[1])
end
return 0",
    )
});
