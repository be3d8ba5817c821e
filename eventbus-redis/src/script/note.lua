-- Notes the tries of entries that stay pending, or that a group that was made anew is about to read again.
-- KEYS stream, retry   ARGV group, consumer, then id, number of tries, tries as JSON or '' for none, ...
-- Replies with the ids that another consumer has claimed or finished: nothing is noted about them, nor about those that are
-- gone.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local lost, set, claims = {}, { 'HSET', retry }, {}
local function write(id, tries)
  if tries == '' then
    redis.call('HDEL', retry, id)
  else
    set[#set + 1], set[#set + 2] = id, tries
  end
end
for i = 3, #ARGV, 3 do
  local id, count, tries = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if #redis.call('XPENDING', stream, group, id, id, 1, me) == 1 then
    local claim = claims[count] or { 'XCLAIM', stream, group, me, 0 }
    claims[count], claim[#claim + 1] = claim, id
    write(id, tries)
  elseif #redis.call('XRANGE', stream, id, id) == 1 then
    if is_unread(stream, group, id) then write(id, tries) else lost[#lost + 1] = id end
  end
end
-- the first writes: a server without memory would refuse notes as these, and lets a script go on that has written
for count, claim in pairs(claims) do
  claim[#claim + 1], claim[#claim + 2], claim[#claim + 3] = 'RETRYCOUNT', count, 'JUSTID'
  redis.call(unpack(claim))
end
if #set > 2 then redis.call(unpack(set)) end
return lost
