"""The English words that both made-up languages of the quickstart translate."""

ENGLISH_WORDS: tuple[str, ...] = tuple(
    """
    badger bear beaver camel cat cow deer dog donkey fox goat hare horse lion mole mouse
    otter pig rabbit seal blackbird crane crow cuckoo dove duck eagle falcon finch goose
    gull hawk heron jay lark magpie owl parrot pigeon raven ash aspen bamboo beech birch
    cedar clover daisy elm fern fir heather holly ivy larch lily maple moss oak pine apple
    bean bread butter cabbage carrot cheese cherry cream egg fig grape honey jam lemon melon
    nut onion pea pear anvil axe bellows broom bucket chisel drill file fork hammer hoe
    knife ladder lever needle pliers pulley rake saw scissors ankle arm back beard bone
    brain cheek chin ear elbow eye finger foot hair hand heart hip knee leg lip abbey bakery
    barn bridge cabin castle chapel cottage farm garage hotel house hut inn library mill
    museum palace prison school apron belt bonnet boot cap cape cloak coat dress glove gown
    hat hood jacket mitten robe sandal scarf shawl shirt blizzard breeze cloud cold dew
    downpour drizzle drought dusk fog frost gale hail haze heat lightning mist rain rainbow
    sleet ambulance barge bicycle boat bus canoe car carriage cart chariot ferry kayak lorry
    plane raft rocket scooter ship sled taxi
    """.split()
)
