-- Removes names of dead consumers without pending entries, and attempts of entries that are no longer pending.
-- KEYS  stream, retry   ARGV  group, own name, idle time (ms), age of attempts (ms), cursor
-- Replies {next cursor, names removed ...}.
local stream, retry, group = KEYS[1], KEYS[2], ARGV[1]
local gone = {}
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local info = by_name(consumer)
  if info.pending == 0 and info.name ~= ARGV[2] and info.idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, info.name)
    gone[#gone + 1] = info.name
  end
end
local now = now_in_ms()
local scanned = redis.call('HSCAN', retry, ARGV[5], 'COUNT', 200)
for i = 1, #scanned[2], 2 do
  local id = scanned[2][i]
  local read, attempts = pcall(cjson.decode, scanned[2][i + 1])
  local touched = read and type(attempts) == 'table' and tonumber(attempts.last_failed_at) or 0
  if now - touched >= tonumber(ARGV[4]) and #redis.call('XPENDING', stream, group, id, id, 1) == 0 then
    redis.call('HDEL', retry, id)
  end
end
return { scanned[1], unpack(gone) }
