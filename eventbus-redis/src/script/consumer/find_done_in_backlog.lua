-- Finds entries that no longer block a consumer in the backlog of its group.
-- KEYS  backlog, its retry records   ARGV  group, consumer, id ...
-- Replies with the ids that are not pending on it, or that stay pending without being handled.
local backlog, retry, group, done = KEYS[1], KEYS[2], ARGV[1], {}
local is_there = groups_of(backlog)[group]
for i = 3, #ARGV do
  local id = ARGV[i]
  local waits = is_there and #redis.call('XPENDING', backlog, group, id, id, 1, ARGV[2]) == 1
    and not stays(redis.call('HGET', retry, id))
  if not waits then done[#done + 1] = id end
end
return done
