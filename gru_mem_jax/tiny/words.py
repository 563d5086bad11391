"""Word lists of the synthetic documents: keys, values and filler are disjoint."""


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


KEYS = _split(
    """
    acorn adder alder aspen badger barley beaver beech birch bison bramble bullfinch
    cactus camel cedar clover condor cougar cricket crocus curlew daisy dingo dolphin
    elder falcon ferret fir gannet gecko gibbon ginger hazel heather heron hornet
    iguana iris ivy jackal jaguar jasmine juniper kestrel koala larch laurel lemur
    lichen lilac linden lizard lobster lotus lynx magpie maple marten mimosa mole
    moss myrtle nettle newt oak olive orchid osprey otter oyster panther parsley
    pelican poplar puffin rowan salmon spruce tulip walnut willow wombat yew
    """
)

VALUES = _split(
    """
    amber anchor anvil apron arrow azure badge banjo barrel basket bell blanket bolt
    bottle brass bronze brush bucket buckle button cable candle canvas carbon chain
    chisel chrome cobalt coin collar copper coral cotton cradle crimson crown crystal
    dagger denim diamond drum ebony emerald engine fender fiddle flag flute funnel
    garnet glove goblet gold granite hammer harp helmet hinge indigo iron ivory jacket
    jade kettle ladder lantern lapis lens lever linen locket magenta marble mirror
    mortar needle nickel onyx opal paddle pearl pencil piano pillow pistol plank
    platinum plough pulley purple quartz quilt ribbon rivet rocket ruby rudder saddle
    sapphire satin scarlet scissors shovel silk silver spindle steel tablet teal
    thimble timber topaz trumpet turquoise vase velvet violin wagon whistle wool zinc
    """
)

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")

# RULER's noise, and the words of a small grammar.
NOISE = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "There and back again.",
    "Here we go.",
)
DETERMINERS = ("the", "a", "some", "every", "this", "one", "our", "no")
ADJECTIVES = _split(
    """
    ancient bitter bright broken calm clever cold curious distant early empty faint
    gentle heavy hidden honest hungry late lonely narrow patient polite proud quiet
    rapid rare rough silent simple slow steep strange tall tired warm wide
    """
)
NOUNS = _split(
    """
    baker bridge captain castle child city clock coast cousin doctor door driver farmer
    field forest garden guest harbor hill house island judge king lake letter market
    miller mountain neighbor officer painter palace poet queen river road sailor school
    shepherd soldier station street student teacher tower traveler valley village
    window writer
    """
)
VERBS = _split(
    """
    arrived ate came danced dreamed fell fished hid laughed listened lived marched
    played prayed ran rested sang sat slept smiled spoke stayed stood swam talked
    traveled waited walked wandered worked
    """
)
ADVERBS = _split(
    """
    alone always badly daily gladly never nightly often once quickly rarely slowly
    softly sometimes there together twice well
    """
)
PREPOSITIONS = (
    "above",
    "behind",
    "below",
    "beside",
    "beyond",
    "inside",
    "near",
    "under",
)
