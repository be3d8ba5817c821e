-- Creates a group, and the stream if there is none. A group that was known goes on where it was.
--
-- KEYS  stream, floors
-- ARGV  group, the id after which it begins, or '$' for the newest, '1' if it is to be listed in the floors: from then on
--       nothing is trimmed that it has yet to read
-- Replies whether it was created.

local stream, floors, group = KEYS[1], KEYS[2], ARGV[1]
if groups_of(stream)[group] then return 0 end
local start = start_of(redis.call('HGET', floors, group), ARGV[2], newest_of(stream))
redis.call('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
if ARGV[3] == '1' then redis.call('HSET', floors, group, after(start)) end
return 1
