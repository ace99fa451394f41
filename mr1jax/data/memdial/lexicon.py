"""The things that people in memdial have, do and are called: every value belongs to exactly one split.

Values come in two forms. Proper names (pets, towns, companies, titles) are made of syllables, so there are hundreds of thousands of
them and a model can only copy them, never know them. Common things (jobs, food, tools) are English words from the lists below.
Both are dealt to train, validation and test by a hash of the word, so a value seen in training is never a gold answer in a test.
"""

import functools
import hashlib
import random

SPLITS = ("train", "validation", "test")
_DEAL = ("train",) * 6 + ("validation",) + ("test",) * 3  # of every ten words

_FEWEST = 3  # words of a kind that a split needs, so that a value can change and change again

_ONSETS = "b br ch d dr f g gr h j k kl l m n p pl r s sh st t tr v w z".split()
_VOWELS = "a e i o u ai ea oo".split()
_CODAS = ["", "", "n", "r", "l", "s", "k", "m", "t", "nd", "x"]

FIRST_NAMES = """
Ada Adam Agnes Alan Alba Alice Alma Amir Amy Anders Andrea Anita Anna Anton Arno Arthur Astrid Beatrix Bella Ben Bernard Bianca Bjorn
Boris Bruno Carla Carmen Cecil Celia Chloe Claire Clara Colin Conrad Cora Cyril Daisy Dana Daniel Daphne Dario Diana Dora Doris Edgar
Edith Edwin Elena Elias Elif Ella Elsa Emil Emma Eric Esther Eva Fabian Fatima Felix Fiona Flora Floyd Frank Freya Frida Gabriel Gemma
George Gerda Gilbert Gloria Grace Greta Gustav Hanna Harold Harriet Hassan Hazel Hector Heidi Helen Henry Hilda Howard Hugo Ida Igor
Ingrid Irene Iris Isaac Isabel Ivan Ivy Jack Jasper Jean Jonas Josef Judith Julia Jun Karin Karl Kasper Kate Keiko Kemal Kurt Lara Lars
Laura Layla Leah Lena Leo Leon Liam Lida Linus Lola Lorenz Louis Lucas Lucy Luther Lydia Mabel Magda Malik Marcel Marco Marta Martin
Matilda Max Maya Mei Mercy Mila Miles Milan Mira Miriam Moira Mona Morris Nadia Naomi Nell Nina Noah Nora Norman Olaf Olga Oliver Olive
Omar Oscar Otto Paula Pedro Petra Philip Piotr Rachel Ralph Ramon Rebecca Regina Rita Robin Rosa Ruben Ruth Samir Sandra Sara Selma
Simon Sofia Stella Stefan Sven Sylvia Tara Thea Theo Tilda Tobias Ulla Ursula Vera Victor Viola Walter Wanda Wendy Willa Xenia Yara
Yusuf Zara Zeno Zoe
""".split()

_JOBS = """nurse teacher pilot baker farmer lawyer singer painter plumber driver cook tailor barber butcher carpenter dentist doctor
engineer fisherman gardener guide hunter janitor joiner judge librarian mason mechanic miner model musician optician photographer
physicist poet porter postman potter printer reporter roofer sailor sculptor secretary soldier surgeon tutor vet waiter weaver welder
writer zookeeper actor banker builder chemist clerk coach dancer diver editor florist jeweller""".split()
_FOODS = """pizza soup salad pasta rice curry stew bread pancakes dumplings noodles sushi tacos pie porridge risotto lasagne paella
goulash omelette falafel burgers waffles trout salmon lentils beans chili ramen gnocchi quiche couscous kebab meatballs fondue""".split()
_DRINKS = """tea coffee milk cocoa lemonade cider juice water cola ale wine beer mead tonic soda espresso matcha punch kefir rum""".split()
_COLOURS = """red blue green yellow purple orange pink brown black white grey gold silver violet turquoise beige maroon navy teal
crimson ivory olive scarlet amber indigo lilac""".split()
_INSTRUMENTS = """piano guitar violin cello flute trumpet drums harp clarinet oboe tuba banjo accordion saxophone trombone ukulele
mandolin organ bagpipes harmonica viola lute bassoon""".split()
_SPORTS = """tennis football chess rowing judo boxing hockey golf cricket rugby fencing karate swimming cycling archery badminton
squash skating sailing surfing climbing bowling wrestling handball curling polo darts skiing baseball volleyball""".split()
_LANGUAGES = """French Spanish German Italian Polish Greek Turkish Arabic Hindi Japanese Korean Swedish Danish Finnish Dutch Czech
Russian Hebrew Swahili Thai Welsh Irish Latin Basque Croatian Hungarian Norwegian Portuguese Romanian Vietnamese""".split()
_THINGS = """lamp bicycle camera kettle sofa tent carpet mirror ladder clock radio drill canoe piano desk blanket jacket backpack
telescope suitcase freezer toaster hammer saddle kite scooter printer basket necklace watch helmet guitar vase teapot bookcase bench
hammock wardrobe stove heater drone tablet notebook umbrella violin sledge trailer lantern pillow""".split()
_PLACES = """museum zoo library market harbour castle theatre stadium airport bakery hospital church temple park lake beach forest
garden circus cinema gallery station bridge tower palace island valley mountain farm village festival concert aquarium lighthouse
vineyard cave waterfall monastery observatory fair""".split()

COMMON = {
    "job": _JOBS,
    "food": _FOODS,
    "drink": _DRINKS,
    "colour": _COLOURS,
    "instrument": _INSTRUMENTS,
    "sport": _SPORTS,
    "language": _LANGUAGES,
    "thing": _THINGS,
    "place": _PLACES,
    "person": FIRST_NAMES,
}
VALUE_KINDS = ("proper", *COMMON)
MONTHS = "January February March April May June July August September October November December".split()


@functools.cache
def split_of(word: str) -> str:
    """The one split that a word may appear in as a name or an answer."""
    return _DEAL[hashlib.sha256(word.lower().encode()).digest()[0] % len(_DEAL)]


def syllable(rng: random.Random) -> str:
    """One of some four thousand syllables that names and made-up words are built of."""
    return rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)


@functools.cache
def _listed(kind: str, split: str) -> tuple[str, ...]:
    """The words of a kind that a split has; none for proper names, nor where the hash dealt too few: validation has no sport of its own."""
    words = tuple(word for word in COMMON.get(kind, ()) if split_of(word) == split)
    return words if len(words) >= _FEWEST else ()


def draw_value(kind: str, split: str, rng: random.Random) -> str:
    """A value of a kind that belongs to the split: "proper" is made of two or three syllables, the others are listed words."""
    if kind not in VALUE_KINDS:
        raise ValueError(f"{kind!r} is no kind of value; choose one of {', '.join(VALUE_KINDS)}")
    if listed := _listed(kind, split):
        return rng.choice(listed)
    while True:
        word = "".join(syllable(rng) for _ in range(rng.choice((2, 2, 3)))).capitalize()
        if split_of(word) == split:
            return word


def render_date(day: int) -> str:
    """The `day`-th day since 1 January 2022 as text, such as "8 May 2023". Months have 30 days here: order is all that matters."""
    year, rest = divmod(day, 360)
    return f"{rest % 30 + 1} {MONTHS[rest // 30]} {2022 + year}"
