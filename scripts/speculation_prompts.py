"""Prompts for scripts/bench_speculate: ten whose continuation quotes what stands in them, ten whose does not.

A small model is shown how: one worked example, then the task. Each ends where the answer begins.
"""

QUOTING = {
    "rename a variable": """Rename the variable `n` to `count` and change nothing else.

Before:
def factorial(n):
    if n < 2:
        return 1
    return n * factorial(n - 1)

After:
def factorial(count):
    if count < 2:
        return 1
    return count * factorial(count - 1)

Rename the variable `xs` to `values` and change nothing else.

Before:
def describe(xs):
    ordered = sorted(xs)
    middle = ordered[len(ordered) // 2]
    total = sum(xs)
    print("smallest", ordered[0], "largest", ordered[-1])
    print("median", middle, "mean", total / len(xs))
    for index, value in enumerate(ordered):
        if value > middle:
            print(index, "is above the median by", value - middle)
    return ordered

After:
""",
    "JSON to YAML": """JSON:
{"name": "north", "city": "Oslo", "rooms": [{"number": 4, "beds": 2}, {"number": 5, "beds": 1}]}
YAML:
name: north
city: Oslo
rooms:
  - number: 4
    beds: 2
  - number: 5
    beds: 1

JSON:
{"name": "harbour", "city": "Lisbon", "rooms": [{"number": 11, "beds": 3, "view": "river"},
{"number": 12, "beds": 2, "view": "garden"}, {"number": 14, "beds": 1, "view": "street"},
{"number": 15, "beds": 2, "view": "river"}], "breakfast": "from seven to ten", "reception": "open all night"}
YAML:
""",
    "add a line to a function": '''Add a docstring to the function and repeat the rest.

Function:
def area(width, height):
    return width * height

With a docstring:
def area(width, height):
    """The area of a rectangle."""
    return width * height

Function:
def read_settings(path, defaults):
    settings = dict(defaults)
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, separator, value = line.partition("=")
            if not separator:
                raise ValueError(f"line {number} of {path} has no value")
            settings[name.strip()] = value.strip()
    return settings

With a docstring:
''',
    "correct a sentence": """Text with a mistake:
The river rises in the hills and flow south for eighty miles before it reaches the sea.
Corrected text:
The river rises in the hills and flows south for eighty miles before it reaches the sea.

Text with a mistake:
The old library stand at the corner of the market square, where the farmers sell apples and cheese
on Saturdays. Its reading room was built two hundred years ago by a merchant who had made his fortune
in wool, and its tall windows look out over the roofs of the lower town, down to the harbour where the
fishing boats come in at dusk.
Corrected text:
""",
    "CSV to a table": """CSV:
fruit,colour,price
apple,red,2
pear,green,3
Table:
| fruit | colour | price |
|---|---|---|
| apple | red | 2 |
| pear | green | 3 |

CSV:
station,line,opened,platforms
Central Square,red line,1932,4
Old Harbour,blue line,1951,2
University,red line,1964,2
Botanical Garden,green line,1970,2
Northern Stadium,blue line,1988,3
Airport Terminal,green line,2006,4
Table:
""",
    "change a setting": """Set the port to 9090 and copy everything else.

Old file:
[web]
host = localhost
port = 8080

New file:
[web]
host = localhost
port = 9090

Set the timeout to 60 and copy everything else.

Old file:
[server]
address = 192.168.10.20
timeout = 30
workers = 8
log_file = /var/log/server/access.log
log_level = warning

[database]
address = 192.168.10.31
name = customers
user = reader
pool_size = 16
retry_seconds = 5

New file:
""",
    "number the lines": """Lines:
bread
milk
Numbered:
1. bread
2. milk

Lines:
Switch off the main valve behind the pump
Drain the remaining water into the lower tank
Remove the four bolts of the front cover
Replace the rubber seal and clean the groove
Fasten the bolts crosswise, first by hand
Open the main valve slowly and look for leaks
Note the date and the pressure in the log book
Numbered:
1.""",
    "repeat with another name": """Letter to Anna:
Dear Anna, thank you for the books. Yours, Peter

The same letter to Thomas:
Dear Thomas, thank you for the books. Yours, Peter

Letter to Mrs Green:
Dear Mrs Green, thank you for your order of the twelfth of March. We are sorry that the oak table cannot
be delivered before the end of April, because the workshop is waiting for timber. If you would rather not
wait, we can offer you the same table in beech at the same price, and deliver it next week. Please let us
know which you prefer. Yours sincerely, the Hill Street Workshop

The same letter to Mr Brown:
""",
    "HTML to Markdown": """HTML:
<ul><li>red</li><li>blue</li></ul>
Markdown:
- red
- blue

HTML:
<h2>Before the journey</h2>
<ul><li>Book the ferry at least two weeks ahead</li><li>Check the tyres and the spare wheel</li>
<li>Pack warm clothes and a good raincoat</li></ul>
<h2>On the island</h2>
<ul><li>Buy bread and fish in the morning market</li><li>Walk to the lighthouse along the northern cliffs</li>
<li>Return the keys to the harbour office</li></ul>
Markdown:
""",
    "a test like the last": """import unittest
from shapes import area


class AreaTest(unittest.TestCase):
    def test_area_of_a_square(self):
        shape = {"kind": "square", "side": 3}
        self.assertEqual(area(shape), 9)

    def test_area_of_a_rectangle(self):
        shape = {"kind": "rectangle", "width": 3, "height": 4}
        self.assertEqual(area(shape), 12)

    def test_area_of_a_triangle(self):
        shape = {"kind": "triangle", "base": 3, "height": 4}
        self.assertEqual(area(shape), 6)

    def test_area_of_a_""",
}
"""Name -> prompt, continued greedily."""

OWN = {
    "a story": "The lighthouse keeper had not spoken to anyone for three weeks when",
    "history": "The invention of the printing press changed Europe because",
    "advice": "If you want to learn to play the violin as an adult, you should",
    "nature": "In spring the first birds that come back to the northern forests are",
    "a letter": "Dear grandmother, I am writing to you from a small town in the mountains, where",
    "science": "Stars shine because deep inside them",
    "cooking": "A good vegetable soup begins with",
    "a dialogue": '"I never said that," she answered, and',
    "an opinion": "People who live in large cities often say that",
    "a description": "The room at the end of the corridor was",
}
"""Name -> prompt, continued by sampling: greedily a small model soon repeats itself, which is quoting."""
