-- Reads entries again that are pending on the consumer, up to the entry that reaches a number of bytes. This counts as
-- no delivery.
-- KEYS  stream, retry   ARGV  group, consumer, maximum number of bytes, id ...
-- Replies {entries, their attempts as JSON or false, ids of deleted entries, the number of ids up to the last entry}.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local entries, attempts, deleted, bytes, reached = {}, {}, {}, 0, 0
for i = 4, #ARGV do
  if bytes >= tonumber(ARGV[3]) then break end
  reached = reached + 1
  local id = ARGV[i]
  local pending = redis.call('XPENDING', stream, group, id, id, 1, me)[1]
  if pending then
    local entry = redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', pending[4])[1]
    if entry then
      entries[#entries + 1] = entry
      attempts[#attempts + 1] = redis.call('HGET', retry, id)
      bytes = bytes + bytes_of(entry)
    else
      redis.call('XACK', stream, group, id)
      redis.call('HDEL', retry, id)
      deleted[#deleted + 1] = id
    end
  end
end
return { entries, attempts, deleted, reached }
