-- Replaces the record of a store's copies of dead letters, and restores dead letters, both or neither.
--
-- KEYS  the record of copies, dead letters
-- ARGV  store, its record as read or '', its new record, for each dead letter the number of its names and values, and
--       these
-- Replies 1, or 0 if a different process has replaced the record.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
local at = 4
while ARGV[at] do
  local last = at + tonumber(ARGV[at])
  redis.call('XADD', KEYS[2], '*', unpack(ARGV, at + 1, last))
  at = last + 1
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
