-- Saves the attempts of entries that stay pending, or that a recreated group has yet to read.
-- KEYS  stream, retry   ARGV  group, consumer, then id, number of attempts, attempts as JSON or '' for none, ...
-- Replies with the ids that a different consumer has claimed or finished: no attempts are saved for these, nor for
-- deleted entries.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local lost, set, claims, attempts_of = {}, { 'HSET', retry }, {}, {}
local function write(id, attempts)
  if attempts == '' then
    redis.call('HDEL', retry, id)
  else
    set[#set + 1], set[#set + 2] = id, attempts
  end
end
for i = 3, #ARGV, 3 do
  local id, count, attempts = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if #redis.call('XPENDING', stream, group, id, id, 1, me) == 1 then
    claims[count] = claims[count] or {}
    table.insert(claims[count], id)
    attempts_of[id] = attempts
  elseif #redis.call('XRANGE', stream, id, id) == 1 then
    if is_unread(stream, group, id) then write(id, attempts) else lost[#lost + 1] = id end
  end
end
-- the first writes: a server out of memory refuses the hash write below, but not after a script has written
for count, ids in pairs(claims) do
  local claim = { 'XCLAIM', stream, group, me, 0 }
  for _, id in ipairs(ids) do claim[#claim + 1] = id end
  for _, option in ipairs({ 'RETRYCOUNT', count, 'JUSTID' }) do claim[#claim + 1] = option end
  -- the server drops an entry that was deleted instead of claiming it
  for _, id in ipairs(redis.call(unpack(claim))) do write(id, attempts_of[id]) end
end
if #set > 2 then redis.call(unpack(set)) end
return lost
