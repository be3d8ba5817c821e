-- Moves an entry to the dead letters and acknowledges it, in one step.
-- KEYS  stream, retry, dead letters
-- ARGV  group, consumer, id, number of own fields, own fields ..., then if the entry was deleted '1', and its fields as
--       in memory ...
-- Replies with the dead letter's id, also if an earlier run wrote it whose reply was lost; false if the entry is no
-- longer pending on this consumer; or 'deleted' if the script needs the fields, which may be large.
-- Lua passes on fewer than 8000 values at once: of an entry with more names and values the dead letter keeps the first.
local MOST = 7800
-- The newest dead letters in which the script searches the one of an earlier run, which ended seconds ago: their number
-- and bytes are limited, because the server runs no other command meanwhile.
local MOST_SINCE, MOST_BYTES = 1000, 16 * 1024 * 1024
local stream, retry, dead, group, me, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3]
local entry = redis.call('XRANGE', stream, id, id)[1]
local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
-- pending on a different consumer: that one handles it
if entry and pending and pending[2] ~= me then return false end
local own = tonumber(ARGV[4])
local function is_same(dead_letter)
  local first = #dead_letter - own
  for i = 1, own, 2 do
    local name, value = ARGV[4 + i], ARGV[5 + i]
    local is_equal = dead_letter[first + i + 1] == value or name == 'dlq_timestamp'
    if dead_letter[first + i] ~= name or not is_equal then return false end
  end
  return true
end
if not pending then
  local last, bytes = '+', 0
  for _ = 1, MOST_SINCE do
    local dead_letter = redis.call('XREVRANGE', dead, last, '-', 'COUNT', 1)[1]
    if not dead_letter then break end
    if is_same(dead_letter[2]) then return dead_letter[1] end
    for _, text in ipairs(dead_letter[2]) do bytes = bytes + #text end
    if bytes >= MOST_BYTES then break end
    last = '(' .. dead_letter[1]
  end
  if entry then return false end
end
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
