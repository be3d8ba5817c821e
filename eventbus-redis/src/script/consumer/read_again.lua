-- Reads entries again that are pending on the consumer, up to the entry that reaches a number of bytes, and renews the
-- claims on them. This counts as no delivery.
--
-- KEYS  stream, retry
-- ARGV  group, consumer, maximum number of bytes, id ...
-- Replies {entries, their attempts as JSON or false, ids of deleted entries, the number of ids up to the last entry}. Leaves
-- out entries that a different consumer has claimed or finished, and those that a recreated group has yet to read.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local entries, attempts, deleted, bytes, reached = {}, {}, {}, 0, 0
for i = 4, #ARGV do
  if bytes >= tonumber(ARGV[3]) then break end
  reached = reached + 1
  local id = ARGV[i]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then
    redis.call('XACK', stream, group, id)
    redis.call('HDEL', retry, id)
    deleted[#deleted + 1] = id
  elseif #redis.call('XPENDING', stream, group, id, id, 1, me) == 1 then
    redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
    entries[#entries + 1] = entry
    attempts[#attempts + 1] = redis.call('HGET', retry, id)
    bytes = bytes + bytes_of(entry)
  end
end
return { entries, attempts, deleted, reached }
