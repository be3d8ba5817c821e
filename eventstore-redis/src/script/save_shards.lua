-- Saves the progress of shards: of each that the member still owns in the named epoch.
-- KEYS  the positions of events; the times of dead letters; for each save the handler, its waiting rows and its dead rows
-- ARGV  the member; position of the last event that it has read and the event's key in the index, or '' twice; for each
--       save: the name of the handler, the shard, the epoch, the checkpoint, waiting and started events, `1` if an event has
--       ended, `1` if it is a release; the number of left types, and name and position of each, or '' if it is left no more;
--       the number of finished events, and their positions; the number of rows, and for each its position, its text, and
--       the time since when it is a dead letter, or ''
-- Reply: for each save 1 if it is made; or nil if the store does not have the event
local ids, times, member = KEYS[1], KEYS[2], take()
local read_position, read_key = take(), take()
if read_position ~= '' and redis.call('HGET', ids, read_key) ~= read_position then return false end
local refused = #KEYS > 2 and (missing_right(times, 'ZADD', 'ZREM') or missing_right(KEYS[3], 'HSET', 'HDEL'))
if refused then return redis.error_reply(refused) end

local function take_list(width)
  local list = {}
  for i = 1, take() * width do list[i] = take() end
  return list
end

local replies = {}
for i = 3, #KEYS, 3 do
  local handler, waiting, dead = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local name, of_shard, epoch = take(), take() .. ':', take()
  local checkpoint, waits, started, has_progressed, is_release = take(), take(), take(), take(), take()
  local left, finished, rows = take_list(2), take_list(1), take_list(3)
  local had = redis.call('HMGET', handler, of_shard .. 'owner', of_shard .. 'epoch', of_shard .. 'left')
  local is_own = had[1] == member and had[2] == epoch

  local function remove_row(position)
    redis.call('HDEL', waiting, position)
    if redis.call('HDEL', dead, position) == 1 then redis.call('ZREM', times, position .. ':' .. name) end
  end

  if is_own then
    redis.call('HSET', handler, of_shard .. 'checkpoint', checkpoint, of_shard .. 'waiting', waits,
      of_shard .. 'started', started)
    if has_progressed == '1' then redis.call('HSET', handler, of_shard .. 'unclean', 0) end
    if is_release == '1' then redis.call('HDEL', handler, of_shard .. 'owner') end
    if #left > 0 then
      local types = cjson.decode(had[3])
      for t = 1, #left, 2 do types[left[t]] = left[t + 1] ~= '' and left[t + 1] or nil end
      redis.call('HSET', handler, of_shard .. 'left', cjson.encode(types))
    end
    for _, position in ipairs(finished) do remove_row(position) end
    for r = 1, #rows, 3 do
      local position, text, dead_since = rows[r], rows[r + 1], rows[r + 2]
      remove_row(position)
      if dead_since == '' then
        redis.call('HSET', waiting, position, text)
      else
        redis.call('HSET', dead, position, text)
        redis.call('ZADD', times, dead_since, position .. ':' .. name)
      end
    end
  end
  replies[#replies + 1] = is_own and 1 or 0
end
return replies
