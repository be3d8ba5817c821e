-- Adds events of a store to the backlog of a group, if all before them were added and none after, and records that the
-- store has a live process. Without events, and with the position before them as the last one, it only checks for room.
-- KEYS  fills, backlog
-- ARGV  the field of the fill, group, the position before the events, that of the last, then for each event the number
--       of its names and values, and these
-- Replies 'filled', 'full', or 'moved' if a different process has filled in more, or all.
local fills, backlog, field, group = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local at, through = string.match(redis.call('HGET', fills, field) or '', '^(%S+) (%S+)$')
if at ~= ARGV[3] then return 'moved' end
redis.call('HSET', fills, 'filler ' .. string.match(field, '^fill (%S+) '), string.format('%.0f', now_in_ms()))
if is_full(backlog, group) then return 'full' end
local i = 5
while i <= #ARGV do
  local count = tonumber(ARGV[i])
  add_to_backlog(backlog, group, unpack(ARGV, i + 1, i + count))
  i = i + 1 + count
end
if is_smaller(ARGV[4], through) then
  redis.call('HSET', fills, field, ARGV[4] .. ' ' .. through)
else
  redis.call('HDEL', fills, field)
end
return 'filled'
