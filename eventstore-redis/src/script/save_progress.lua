-- Saves the progress of a group: replaces rows, removes rows, and sets its checkpoint.
-- KEYS  the waiting deliveries of the group, a hash by position; the dead letters of all groups, a sorted set by time;
--       their delivery attempts, a hash; then, if the checkpoint is set, the checkpoint, and the names of checkpoints and
--       leases
-- ARGV  the group; the name of the checkpoint and its position, or '' twice; the number of rows to replace; for each of
--       these its position, its delivery attempts, and the time since when it is a dead letter, or ''; then the positions
--       of rows to remove
local waiting, dead, attempts, checkpoint, names = unpack(KEYS)
local group, name, position, count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local refused = #ARGV > 4
  and (missing_right(waiting, 'ZREM', 'HSET', 'ZADD') or checkpoint and missing_right(checkpoint, 'SET'))
if refused then return redis.error_reply(refused) end

local function remove(at)
  redis.call('HDEL', waiting, at)
  local member = at .. ':' .. group
  redis.call('ZREM', dead, member)
  redis.call('HDEL', attempts, member)
end

for i = 5, 4 + count * 3, 3 do
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
for i = 5 + count * 3, #ARGV do remove(ARGV[i]) end
if checkpoint then
  redis.call('ZADD', names, 0, name)
  redis.call('SET', checkpoint, position)
end
return 1
