-- Reads entries again that are pending on the consumer, which counts as no delivery.
-- KEYS  stream, retry, relay   ARGV  group, consumer, id ...
-- Replies {entries, their attempts as JSON or false, ids of deleted entries}.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local entries, attempts, deleted = {}, {}, {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local pending = redis.call('XPENDING', stream, group, id, id, 1, me)[1]
  if pending then
    local entry = redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', pending[4])[1]
    if entry then
      entries[#entries + 1] = entry
      attempts[#attempts + 1] = redis.call('HGET', retry, id)
    else
      redis.call('XACK', stream, group, id)
      redis.call('HDEL', retry, id)
      deleted[#deleted + 1] = id
    end
  end
end
note_removed(stream, KEYS[3], group, deleted)
return { entries, attempts, deleted }
