e.position, e.stream_no, {fields}
