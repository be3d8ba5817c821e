-- Returns the low-water mark of the slowest reader of a stream, the reason why it is no higher, and that reader; also
-- the mark of the lost group that is furthest behind, and that group. `save` is called with each listed group whose
-- mark has moved.
local function trim_floor(stream, floors, projections, first, save)
  local missing = by_name(redis.call('HGETALL', floors))
  local floor, reason, holder
  for name, info in pairs(groups_of(stream)) do
    local listed = missing[name]
    if is_known(info, listed, floors) then
      local id, because = floor_of(stream, info, first)
      if listed and listed ~= id then save(name, id) end
      if not floor or is_before(id, floor) then floor, reason, holder = id, because, name end
    end
    missing[name] = nil
  end
  for name, id in pairs(by_name(redis.call('HGETALL', projections))) do
    local next = after(string.match(id, '^%d+%-%d+') or '0-0')
    if not floor or is_before(next, floor) then floor, reason, holder = next, 'projection', name end
  end
  -- entries to copy into the backlog of a group
  for name, value in pairs(by_name(redis.call('HGETALL', fills_key(floors)))) do
    local group, next_one = string.match(name, '^copy ([^\n]*)\n'), string.match(value, '^(%d+%-%d+) ')
    if group and next_one and (not floor or is_before(next_one, floor)) then
      floor, reason, holder = next_one, 'unread', group
    end
  end
  local lost, lost_group
  for group, id in pairs(missing) do
    if not lost or is_before(id, lost) then lost, lost_group = id, group end
  end
  return floor, reason, holder, lost, lost_group
end
