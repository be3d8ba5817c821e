-- Moves an entry to the dead letters and acknowledges it, in one step.
-- KEYS  stream, retry, dead letters
-- ARGV  group, consumer, id, number of own fields, own fields ..., then if the entry was deleted '1', and its fields as
--       in memory ...
-- Replies with the dead letter's id; false if the entry is no longer pending on this consumer and still in the stream; or 'deleted' if the script
-- needs the fields, which may be large.
-- Lua passes on fewer than 8000 values at once: of an entry with more names and values the dead letter keeps the first.
local MOST = 7800
local stream, retry, dead, group, me, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3]
local entry, own = redis.call('XRANGE', stream, id, id)[1], tonumber(ARGV[4])
local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
-- a different consumer has it, or it was acknowledged; of an entry that the stream has lost, only this consumer knows
if pending and pending[2] ~= me or entry and not pending then return false end
if not entry and not ARGV[5 + own] then return 'deleted' end
local fields = { 'XADD', dead, '*' }
if entry then
  for i = 1, math.min(#entry[2], MOST) do fields[#fields + 1] = entry[2][i] end
else
  for i = 6 + own, #ARGV do fields[#fields + 1] = ARGV[i] end
end
for i = 5, 4 + own do fields[#fields + 1] = ARGV[i] end
local written = redis.call(unpack(fields))
redis.call('XACK', stream, group, id)
redis.call('HDEL', retry, id)
return written
