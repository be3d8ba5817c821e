-- Reserves ids above a floor.
-- KEYS  the counter, which holds the next id
-- ARGV  number of ids, floor (-1: none)
-- Replies with the first id; 0 if there is neither a counter nor a floor.
local next, floor = tonumber(redis.call('GET', KEYS[1]) or 0) or 0, tonumber(ARGV[2])
if next < 1 and floor < 0 then
  return 0
end
if next <= floor then
  next = floor + 1
end
redis.call('SET', KEYS[1], string.format('%d', next + ARGV[1]))
return next
