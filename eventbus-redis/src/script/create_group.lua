-- Creates a group, and the stream if there is none. A group that was known goes on where it was; as the server begins
-- to count anew, what it counted is not noted any more. One that is there is left alone, but listed in the floors.
--
-- KEYS  stream, floors, relay
-- ARGV  group, the id after which it begins, or '$' for the newest, '1' if it is to be listed in the floors: from then on
--       nothing is trimmed that it has yet to read
-- Replies whether it was created.

local stream, floors, relay, group = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local found, floor = groups_of(stream)[group], redis.call('HGET', floors, group)
if found then
  if ARGV[3] == '1' then
    if not floor then redis.call('HSET', floors, group, (floor_of(stream, found, first_of(stream)))) end
    redis.call('SREM', unjoined_key(floors), group)
  end
  return 0
end
local notes = by_name(redis.call('HGETALL', relay))
local start = start_of(floor, ARGV[2], newest_of(stream))
redis.call('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
local noted = noted_floor(notes, group)
if noted then redis.call('HSET', relay, 'floor:' .. group, noted .. ' -') end
if ARGV[3] == '1' then
  redis.call('HSET', floors, group, after(start))
  redis.call('SREM', unjoined_key(floors), group)
elseif not floor then
  redis.call('SADD', unjoined_key(floors), group)
end
return 1
