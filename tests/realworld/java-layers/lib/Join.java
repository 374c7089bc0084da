public class Join {
    public static String of(String[] words) {
        return String.join("|", words);
    }
}
