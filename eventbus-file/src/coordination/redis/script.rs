//! What Redis does in one step.

use std::sync::LazyLock;

use redis::Script;

/// Draws ids above a floor; 0 if the counter is not there and no floor (-1) is given. The key holds the next id.
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

/// Lowers the counter if it is still what it was.
pub(super) static LOWER_COUNTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[2])
end
return 1",
    )
});

/// Makes a claim last, and takes it back where Redis has forgotten it; 0 if it is another worker's.
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

/// Removes a claim, or a lock, of this worker; 0 if it is another's.
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
