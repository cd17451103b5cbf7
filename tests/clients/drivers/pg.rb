# Ruby's pg, over libpq: text and binary results, named and unnamed statements, COPY both ways.
require "pg"

host, port, user, database = ARGV
row = "select id, name, email, card, born from customers where id = $1"
order = "select id, customer_id, cents, placed, item from orders where id = $1"
c = PG.connect(host: host, port: port, user: user, dbname: database)
show = ->(values) { values.map { |value| value.nil? ? "null" : value.to_s }.join(" ") }
said = [c.exec_params("select count(*) from customers where id > $1", [0]).getvalue(0, 0)]
c.prepare("one", row)
rows = [1] * 6
rows = rows.flat_map { |n| [c.exec_prepared("one", [n]).values[0], c.exec_params(row, [n]).values[0]] }
# In binary, an integer is its bytes and a text itself.
binary = c.exec_params(row, [1], 1).values[0]
raise binary.inspect unless binary == [[1].pack("N"), "Ada Quill", "***", "***", nil]
raise rows.inspect if rows.uniq.size > 1
said << show.(rows[0])
c.type_map_for_results = PG::BasicTypeMapForResults.new(c)
values = c.exec_params(order, [5]).values[0]
raise values.inspect unless values[3].is_a?(Time) && values[2].is_a?(Integer)
said << show.(values.values_at(0, 1, 2, 4))
c.exec("begin")
begin
  c.exec("truncate customers")
rescue PG::Error => error
  said << error.result.error_field(PG::PG_DIAG_SQLSTATE)
end
c.exec("rollback")
said << c.exec("select count(*) from orders").getvalue(0, 0)
copied = +""
c.copy_data("copy (select id, email from customers where id < 3 order by id) to stdout") do
  while (line = c.get_copy_data)
    copied << line
  end
end
said << show.(copied.split)
c.exec("begin")
c.copy_data("copy scratch (word) from stdin") { 1000.times { c.put_copy_data("driver-ruby\n") } }
said << c.exec_params("select count(*) from scratch where word = $1", ["driver-ruby"]).getvalue(0, 0)
c.exec("rollback")
# Row by row.
c.send_query("select email from customers order by id")
c.set_single_row_mode
c.get_result.stream_each { |single| raise single.inspect unless single["email"] == "***" }
puts said.join(" | ")
