local function now_in_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A whole number in full.
local function whole(number) return string.format('%.0f', number) end

-- Whether a lease has not run out; one that was renewed in the future was so before the clock was set back, and is free.
local function is_live(ends, renewed, now)
  return tonumber(ends) > now and (tonumber(renewed) or 0) <= now
end
