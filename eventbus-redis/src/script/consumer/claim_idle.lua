-- Reclaims entries of dead consumers that have been pending for long, from one page of the pending ones.
--
-- This does not count as a delivery: consumers that keep no attempts, as those of the Python library, decide by that number
-- what becomes a dead letter. An entry of such a consumer begins with one attempt
-- less than the server counted deliveries of it.
--
-- KEYS  stream, retry, members
-- ARGV  group, consumer, idle time (ms), cursor, number of pending entries to check, maximum number of entries, maximum
--       number of bytes, '1' to leave the entries of a live member alone while it may have yet to renew its claims
-- Replies {next cursor, '-' at the end, entries, their attempts as JSON or false, ids of deleted
-- entries, for each entry 1 if the process of its consumer counts as ended: the consumer is no member, or its
-- heartbeat is late and it has not left}.
local stream, retry, group, me, idle = KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
local page_len, most, most_bytes = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now, members = now_in_ms(), by_name(redis.call('HGETALL', KEYS[3]))
-- a consumer reads its own entries again in another way; a recovery has no other
local claims_own = string.match(me, '%-recovery$')

-- Returns the idle time after which the entries of a consumer are reclaimed. A live member renews its claims within the
-- time that its record states, which may be longer than that of this consumer.
local function idle_time_of(name)
  local member = ARGV[8] == '1' and live_member(members[name] or '', now)
  return member and not member.left and math.max(idle, tonumber(member.live_ms)) or idle
end

-- a heartbeat is due after a sixth of the time in which a member counts as alive: after half of it, it is not just slow
local function has_ended(name)
  local is_json, member = pcall(cjson.decode, members[name] or '')
  if not is_json or type(member) ~= 'table' then return 1 end
  local at, live = tonumber(member.at), tonumber(member.live_ms)
  return at and live and (member.left or at + live / 2 > now) and 0 or 1
end

-- Removes ids of deleted entries from the pending ones, regardless of their idle time: no entry is idle for so long, so
-- XAUTOCLAIM claims none; it checks ten times its COUNT.
local count = math.ceil(page_len / 10)
local gone = redis.pcall('XAUTOCLAIM', stream, group, me, '9007199254740991', ARGV[4], 'COUNT', count, 'JUSTID')
if gone.err then return gone end
local deleted = gone[3] or {}
for _, id in ipairs(deleted) do redis.call('HDEL', retry, id) end

local entries, attempts, ended, bytes, next = {}, {}, {}, 0, ARGV[4]
local pending = redis.call('XPENDING', stream, group, ARGV[4], '+', page_len)
local is_end = #pending < page_len
for _, found in ipairs(pending) do
  if #entries >= most or bytes >= most_bytes then
    is_end = false
    break
  end
  local id, holder, delivered = found[1], found[2], found[4]
  next = '(' .. id
  if (holder ~= me or claims_own) and found[3] >= idle_time_of(holder) then
    local entry = redis.call('XRANGE', stream, id, id)[1]
    if not entry then
      redis.call('XACK', stream, group, id)
      redis.call('HDEL', retry, id)
      deleted[#deleted + 1] = id
    else
      redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
      local noted = redis.call('HGET', retry, id)
      local keeps_attempts = holder == me or members[holder] or string.match(holder, '%-recovery$')
      if not noted and delivered > 1 and not keeps_attempts then
        noted = string.format('{"attempts":%d,"elsewhere":%d}', delivered - 1, delivered - 1)
        redis.pcall('HSET', retry, id, noted)
      end
      entries[#entries + 1] = entry
      attempts[#attempts + 1] = noted
      ended[#ended + 1] = has_ended(holder)
      bytes = bytes + bytes_of(entry)
    end
  end
end
return { is_end and '-' or next, entries, attempts, deleted, ended }
