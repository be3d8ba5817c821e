-- Takes entries over from consumers that show no life. That counts as no delivery: by their number others of the group
-- decide what is to be a dead letter. What was left to a member that announces nothing stays its own while that one lives.
-- An entry that such a member was given begins with as many attempts, less one, as it was delivered; only the server has
-- counted them.
-- KEYS stream, retry, relay, members   ARGV group, consumer, idle time (ms), cursor, count, '1' if the stream is a partition
-- Replies with {cursor, entries, their tries as JSON or false, ids of entries that were deleted, for each entry 1 if the
-- process that had it has ended, as far as is known: its consumer is no member any more, or has shown no life for long
-- without having left}.
local stream, retry, group, me, idle = KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
local is_live, silent, delivered = {}, {}, {}
if ARGV[6] ~= '1' then
  local announced = by_name(redis.call('HGETALL', KEYS[4]))
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local info = by_name(consumer)
    is_live[info.name] = info.idle < idle
    if info.pending > 0 and info.name ~= me and is_silent(info.name, announced) then silent[#silent + 1] = info.name end
  end
  for _, name in ipairs(silent) do
    for _, entry in ipairs(redis.call('XPENDING', stream, group, 'IDLE', idle, '-', '+', 1000, name)) do
      delivered[entry[1]] = entry[4]
    end
  end
end

-- Showing life takes a sixth of the time that a member counts as alive: half of it without is not slow.
local now, members = now_in_ms(), {}
local function has_ended(name)
  if not name then return 1 end
  if string.sub(name, 1, #ABSENT) == ABSENT then return 0 end
  if members[name] == nil then
    local is_json, member = pcall(cjson.decode, redis.call('HGET', KEYS[4], name) or '')
    if not is_json or type(member) ~= 'table' then member = {} end
    local at, live = tonumber(member.at), tonumber(member.live_ms)
    members[name] = at and live and (member.left or at + live / 2 > now) and 0 or 1
  end
  return members[name]
end

-- the server looks at ten times as many entries as it claims
local holder = {}
for _, pending in ipairs(redis.call('XPENDING', stream, group, ARGV[4], '+', ARGV[5] * 10)) do
  holder[pending[1]] = pending[2]
end
local claimed = redis.call('XAUTOCLAIM', stream, group, me, idle, ARGV[4], 'COUNT', ARGV[5], 'JUSTID')
local entries, tries, deleted, ended = {}, {}, claimed[3], {}
for _, id in ipairs(deleted) do redis.call('HDEL', retry, id) end
note_removed(stream, KEYS[3], group, deleted)
for _, id in ipairs(claimed[2]) do
  local noted = redis.call('HGET', retry, id)
  local is_json, read = pcall(cjson.decode, noted or '')
  local left_to = is_json and type(read) == 'table' and read.left_to
  if left_to and is_live[left_to] then
    redis.call('XCLAIM', stream, group, left_to, 0, id, 'IDLE', idle * 2, 'JUSTID')
  else
    local before = (delivered[id] or 1) - 1
    if before > 0 and (left_to or not noted) then
      noted = string.format('{"attempts":%d,"elsewhere":%d}', before, before)
      redis.pcall('HSET', retry, id, noted)
    end
    entries[#entries + 1] = redis.call('XRANGE', stream, id, id)[1]
    tries[#tries + 1] = noted
    ended[#ended + 1] = has_ended(holder[id])
  end
end
return { claimed[1], entries, tries, deleted, ended }
