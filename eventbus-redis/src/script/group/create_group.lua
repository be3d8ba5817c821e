-- Creates a group, and its stream if it is missing. A known group that was lost continues at its low-water mark; its
-- recorded count is dropped, as the server starts to count again. An existing group only gets listed in the floors.
--
-- A group that its consumers create begins with the oldest event of each store: its backlog gets the events that the
-- stream lacks, as they were trimmed or lost.
--
-- It records the format of the bus, too, if the server has lost it together with the group.
--
-- KEYS  stream, floors, relay, the bus's `meta`; a plain stream has none
-- ARGV  group, the id after which it begins, or '$' for the newest, '1' to list it in the floors, so that trimming
--       keeps the entries that it has yet to read; '2' if a consumer joins it too; '0' for neither; the format that
--       this release writes, the lowest format that its readers must know
-- Replies 1 if it was created.

local stream, floors, relay, group = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local found, floor = groups_of(stream)[group], redis.call('HGET', floors, group)
local notes, newest = by_name(redis.call('HGETALL', relay)), newest_of(stream)
local is_new = not floor and (not found or not is_known(found, floor, floors))

if ARGV[3] == '2' and is_new and ARGV[2] ~= '$' then
  for store, through in pairs(missing_positions(stream, notes)) do
    begin_backlog(fills_key(floors), store, group, through, now_in_ms())
  end
end
if found then
  if ARGV[3] ~= '0' then
    if is_new and ARGV[3] == '2' and ARGV[2] == '$' then redis.call('XGROUP', 'SETID', stream, group, '$') end
    if not floor then
      found = groups_of(stream)[group]
      redis.call('HSET', floors, group, (floor_of(stream, found, first_of(stream))))
    end
    redis.call('HDEL', unjoined_key(floors), group)
  end
  return 0
end
if KEYS[4] then record_format(KEYS[4], ARGV[4], ARGV[5]) end
local start = start_of(floor, ARGV[2], newest)
redis.call('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
local noted = recorded_floor(notes, group)
if noted then redis.call('HSET', relay, 'floor:' .. group, noted .. ' -') end
if ARGV[3] ~= '0' then
  redis.call('HSET', floors, group, after(start))
  redis.call('HDEL', unjoined_key(floors), group)
elseif not floor then
  redis.call('HSET', unjoined_key(floors), group, 1)
end
return 1
