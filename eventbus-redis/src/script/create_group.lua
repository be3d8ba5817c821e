-- Creates a group, and the stream if there is none. A group that is listed in the floors and was lost goes on where it
-- was; if the stream was lost too, it begins with the oldest entry.
--
-- KEYS  stream, floors
-- ARGV  group, the id after which it begins, or '$' for the newest, '1' if it is to be listed in the floors: from then on
--       nothing is trimmed that it has yet to read
-- Replies whether it was created.

local stream, floors, group, start = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local newest = '0-0'
if redis.call('EXISTS', stream) == 1 then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    if by_name(info).name == group then return 0 end
  end
  newest = by_name(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
end
local floor = redis.call('HGET', floors, group)
if floor then
  start = before(floor)
  if is_before(newest, start) then start = '0-0' end
elseif start == '$' then
  start = newest
end
redis.call('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
if ARGV[3] == '1' then redis.call('HSET', floors, group, after(start)) end
return 1
