-- Replaces the record of the copies that a store has of the dead letters, and puts back dead letters, both or neither.
--
-- KEYS  the record of copies, dead letters
-- ARGV  store, its record as it was read or '', its record from now on, for each dead letter how many names and values it has,
--       and these
-- Replies 1, or 0 if another process has replaced the record.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
local at = 4
while ARGV[at] do
  local last = at + tonumber(ARGV[at])
  redis.call('XADD', KEYS[2], '*', unpack(ARGV, at + 1, last))
  at = last + 1
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
