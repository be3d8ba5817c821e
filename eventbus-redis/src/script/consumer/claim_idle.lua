-- Reclaims entries of dead consumers, from one page of the pending ones. This does not count as a delivery: consumers
-- that keep no attempts decide by that number what becomes a dead letter. A silent member is one that announces no
-- types; an entry that was handed off to it stays with it while it lives.
--
-- An entry of a silent member begins with one attempt less than the server counted deliveries of it.
--
-- KEYS  stream, retry, relay, members
-- ARGV  group, consumer, idle time (ms), cursor, number of pending entries to check, maximum number of entries, maximum
--       number of bytes, and of those of entries that silent members keep, '1' if the stream is a partition, '1' to leave
--       the entries of a live member alone while it may have yet to renew its claims
-- Replies {next cursor, '-' at the end, entries, their attempts as JSON or false, ids of deleted entries, for each
-- entry 1 if the process of its consumer counts as ended: the consumer is no member, or its heartbeat is late and it
-- has not left}.
local stream, retry, group, me, idle = KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
local page_len, most, most_bytes, most_passed = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local is_live, announced = {}, nil
if ARGV[9] ~= '1' then
  announced = by_name(redis.call('HGETALL', KEYS[4]))
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local info = by_name(consumer)
    is_live[info.name] = info.idle < idle
  end
end

-- a heartbeat is due after a sixth of the time in which a member counts as alive: after half of it, it is not just slow
local now, members = now_in_ms(), {}
local function has_ended(name)
  if string.sub(name, 1, #ABSENT) == ABSENT then return 0 end
  if members[name] == nil then
    local is_json, member = pcall(cjson.decode, redis.call('HGET', KEYS[4], name) or '')
    if not is_json or type(member) ~= 'table' then member = {} end
    local at, live = tonumber(member.at), tonumber(member.live_ms)
    members[name] = at and live and (member.left or at + live / 2 > now) and 0 or 1
  end
  return members[name]
end

-- Returns the idle time after which the entries of a consumer are reclaimed. A live member renews its claims within the time
-- that its record states, which may be longer than that of this consumer.
local idle_times = {}
local function idle_time_of(name)
  if not idle_times[name] then
    local member = ARGV[10] == '1' and announced and live_member(announced[name] or '', now)
    idle_times[name] = member and not member.left and math.max(idle, tonumber(member.live_ms)) or idle
  end
  return idle_times[name]
end

local deleted, refused = remove_gone(stream, group, me, ARGV[4], page_len)
if refused then return refused end
for _, id in ipairs(deleted) do redis.call('HDEL', retry, id) end

local entries, attempts, ended, bytes, passed, next = {}, {}, {}, 0, 0, ARGV[4]
local pending = redis.call('XPENDING', stream, group, ARGV[4], '+', page_len)
local is_end = #pending < page_len
for _, found in ipairs(pending) do
  if #entries >= most or bytes >= most_bytes or passed >= most_passed then
    is_end = false
    break
  end
  local id, holder, delivered = found[1], found[2], found[4]
  next = '(' .. id
  if found[3] >= idle_time_of(holder) then
    local entry = redis.call('XRANGE', stream, id, id)[1]
    local noted = redis.call('HGET', retry, id)
    local is_json, read = pcall(cjson.decode, noted or '')
    local left_to = is_json and type(read) == 'table' and read.left_to
    if not entry then
      redis.call('XACK', stream, group, id)
      redis.call('HDEL', retry, id)
      deleted[#deleted + 1] = id
    elseif left_to and is_live[left_to] then
      passed = passed + bytes_of(entry)
      if holder ~= left_to then
        redis.call('XCLAIM', stream, group, left_to, 0, id, 'IDLE', idle * 2, 'JUSTID')
      end
    else
      redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
      local of_silent = announced and holder ~= me and is_silent(holder, announced)
      local before = of_silent and delivered - 1 or 0
      if before > 0 and (left_to or not noted) then
        noted = string.format('{"attempts":%d,"elsewhere":%d}', before, before)
        redis.pcall('HSET', retry, id, noted)
      end
      entries[#entries + 1] = entry
      attempts[#attempts + 1] = noted
      ended[#ended + 1] = has_ended(holder)
      bytes = bytes + bytes_of(entry)
    end
  end
end
note_removed(stream, KEYS[3], group, deleted)
return { is_end and '-' or next, entries, attempts, deleted, ended }
