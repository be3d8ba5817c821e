-- Takes entries over from consumers that show no life.
-- KEYS stream, retry   ARGV group, consumer, idle time (ms), cursor, count
-- Replies with {cursor, entries, their tries as JSON or false, ids of entries that were deleted}.
local stream, retry = KEYS[1], KEYS[2]
local claimed = redis.call('XAUTOCLAIM', stream, ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5])
local tries = {}
for i, entry in ipairs(claimed[2]) do tries[i] = redis.call('HGET', retry, entry[1]) end
for _, id in ipairs(claimed[3] or {}) do redis.call('HDEL', retry, id) end
return { claimed[1], claimed[2], tries, claimed[3] or {} }
