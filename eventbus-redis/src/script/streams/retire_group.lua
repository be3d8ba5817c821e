-- Removes a group of a plain stream and its low-water mark, so that it holds no trimming any more. The server may have
-- lost the group: then its mark alone is left.
--
-- KEYS  stream, floors
-- ARGV  group
-- Replies 1 if there was the group or its mark.
local stream, floors, group = KEYS[1], KEYS[2], ARGV[1]
local found = groups_of(stream)[group]
local is_listed = redis.call('HDEL', floors, group) == 1
if found then redis.call('XGROUP', 'DESTROY', stream, group) end
return (found or is_listed) and 1 or 0
