package shop;

import java.util.Map;

class Prices {
    private static final Map<String, Integer> ALL = Map.of("tea", 3, "cake", 5);

    static int of(String what) {
        return ALL.get(what);
    }
}
