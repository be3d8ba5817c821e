-- Saves the progress of a group: replaces rows, removes rows, and sets its checkpoint.
-- KEYS  the waiting deliveries of the group, a hash by position; the dead letters of all groups, a sorted set by time;
--       their delivery attempts, a hash; the checkpoint
-- ARGV  the group; the position of the checkpoint, or ''; the number of rows to replace; for each of these its
--       position, its delivery attempts, and the time since when it is a dead letter, or ''; then the positions of rows
--       to remove
local waiting, dead, attempts, checkpoint = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, position, count = ARGV[1], ARGV[2], tonumber(ARGV[3])

local function remove(at)
  redis.call('HDEL', waiting, at)
  local member = at .. ':' .. group
  redis.call('ZREM', dead, member)
  redis.call('HDEL', attempts, member)
end

for i = 4, 3 + count * 3, 3 do
  local at, json, since = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  remove(at)
  if since == '' then
    redis.call('HSET', waiting, at, json)
  else
    local member = at .. ':' .. group
    redis.call('ZADD', dead, since, member)
    redis.call('HSET', attempts, member, json)
  end
end
for i = 4 + count * 3, #ARGV do remove(ARGV[i]) end
if position ~= '' then redis.call('SET', checkpoint, position) end
return 1
