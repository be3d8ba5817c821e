-- Takes entries over from consumers that show no life. That counts as no delivery: by their number others of the group
-- decide what is to be a dead letter.
-- KEYS stream, retry, relay   ARGV group, consumer, idle time (ms), cursor, count
-- Replies with {cursor, entries, their tries as JSON or false, ids of entries that were deleted}.
local stream, retry, group = KEYS[1], KEYS[2], ARGV[1]
local claimed = redis.call('XAUTOCLAIM', stream, group, ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5], 'JUSTID')
local entries, tries, deleted = {}, {}, claimed[3]
for _, id in ipairs(deleted) do redis.call('HDEL', retry, id) end
note_removed(stream, KEYS[3], group, deleted)
for i, id in ipairs(claimed[2]) do
  entries[i] = redis.call('XRANGE', stream, id, id)[1]
  tries[i] = redis.call('HGET', retry, id)
end
return { claimed[1], entries, tries, deleted }
